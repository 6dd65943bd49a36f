"""test_functions_captures.py - captures of real connections through Linux and through the
firewall: what nf_conntrack lets through, and what it refuses, so does the firewall, packet
by packet.  DIFFERS has the others, and why.
"""
import glob
import os
import struct

import pytest

import referee
from lab import Lab, missing_rights
from test_captures import ETHERNET, TRACES, read_capture
from test_functions_referee import FILTER, FIREWALL_SECTION, STRICT, ours_with
from transfers import checksum

pytestmark = pytest.mark.skipif(not os.path.isdir(TRACES), reason=f"no captures in {TRACES}")

# Fragments have tests of their own: Linux lets them go on when it has all.
CAPTURES = sorted(os.path.relpath(path, TRACES) for pattern in
                  ("special/[!f]*.pcap", "special/ftp*.pcap", "enterprise-templates/*.pcap",
                   "ips/*/input.pcap")
                  for path in glob.glob(f"{TRACES}/{pattern}"))

# {capture: {packets: why what passes with us is not what passes with Linux}}
DIFFERS = {
    "special/jumbo.pcap": {
        (17, 18, 19): "segments longer than the MTU are left out here, and what they brought"
        " is acknowledged: Linux is lost, and we less than the tolerance behind"},
    "special/tcp-port-reuse.pcap": {
        (1,): "a RST that acknowledges nothing is no answer to a SYN: RFC 9293, 3.10.7.3"},
    "special/tcp-reassembly-synthetic.pcap": {
        (104, 105): "it acknowledges a byte that was never sent: the record may lag behind"},
    "special/tcp-rst-injection.pcap": {
        (1,): "a RST that does not acknowledge the SYN is no answer to it",
        (2, 3, 4, 5, 6, 7, 8): "behind it Linux refuses the true server"},
    "ips/bug-3286-02-linux-evasion/input.pcap": {
        (3, 5, 6, 9): "a forged RST and FIN before the server's answer: Linux ends the"
        " connection, with us its ends go on behind it"},
}

# Whatever its addresses are, what comes in on one side leaves on the other.
ROUTES = """
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.in0.rp_filter=0 \\
        net.ipv4.conf.out0.rp_filter=0
ip rule add iif in0 lookup 101 pref 10
ip rule add iif out0 lookup 102 pref 10
ip route add default via 192.0.2.1 dev out0 table 101
ip route add default via 10.0.0.1 dev in0 table 102
ip -6 rule add iif in0 lookup 101 pref 10
ip -6 rule add iif out0 lookup 102 pref 10
ip -6 route add default via 2001:db8::1 dev out0 table 101
ip -6 route add default via fd00::1 dev in0 table 102
"""


def put_right(packet):
    """With right checksums: those of a capture may have been left to a card, or have gone
    with what was made unreadable.  Linux looks at those of every packet."""
    p = bytearray(packet)
    if p[0] >> 4 == 4:
        at, protocol = (p[0] & 15) * 4, p[9]
        p[10:12] = bytes(2)
        p[10:12] = checksum(p[:at]).to_bytes(2, "big")
        ends = bytes(p[12:20])
    else:
        at, protocol, ends = 40, p[6], bytes(p[8:40])
    field = at + {6: 16, 17: 6, 1: 2, 58: 2}.get(protocol, len(p))
    # UDP may have none, or contradict itself.
    if field + 2 > len(p) or protocol == 17 and (
            p[field:field + 2] == bytes(2) or
            struct.unpack_from("!H", p, at + 4)[0] != len(p) - at):
        return bytes(p)
    p[field:field + 2] = bytes(2)
    ends = b"" if protocol == 1 else ends + struct.pack("!II", protocol, len(p) - at)
    p[field:field + 2] = checksum(ends + p[at:]).to_bytes(2, "big")
    return bytes(p)


def moved(packet, number):
    """Between addresses that no other capture has: some have the same connection."""
    p = bytearray(packet)
    if p[0] >> 4 == 6:
        p[12] = p[28] = number
        return bytes(p)
    quoted = (p[0] & 15) * 4 + 8
    for at in [0, quoted] if p[9] == 1 and p[quoted - 8] in (3, 11) and len(p) > quoted + 19 \
            else [0]:
        p[at + 13] = p[at + 17] = number
        if at:
            p[at + 10:at + 12] = bytes(2)
            p[at + 10:at + 12] = checksum(p[at:at + (p[at] & 15) * 4]).to_bytes(2, "big")
    return bytes(p)


def is_routed(packet):
    """Whether a router lets go on what has these addresses, and this TTL."""
    if packet[0] >> 4 == 6:
        source, destination = packet[8:24], packet[24:40]
        return packet[7] > 1 and destination[0] != 255 and \
            b"\xfe\x80" not in (source[:2], destination[:2])
    source, destination = packet[12:16], packet[16:20]
    return packet[8] > 1 and destination[0] < 224 and destination[3] != 255 and \
        not {0, 127} & {source[0], destination[0]}


def packets_of(name, number):
    """[(side, IP packet)]: the first sender of a pair of hosts is inside."""
    link, packets = read_capture(f"{TRACES}/{name}")
    found, first = [], {}
    for frame, length in packets:
        at = 14 if link == ETHERNET else 0
        while at and frame[at - 2:at] in (b"\x81\x00", b"\x88\xa8"):
            at += 4         # Linux would have a device for each VLAN.
        if at and frame[at - 2:at] not in (b"\x08\x00", b"\x86\xdd"):
            continue
        packet = frame[at:]
        if len(packet) < 40:
            continue
        if packet[0] >> 4 == 4:
            packet = packet[:struct.unpack_from("!H", packet, 2)[0]]
            ends = packet[12:16], packet[16:20]
        else:
            ends = packet[8:24], packet[24:40]
        if 28 <= len(packet) <= 1500 and length == len(frame) and is_routed(packet):
            first.setdefault(frozenset(ends), ends[0])
            found.append(("in" if first[frozenset(ends)] == ends[0] else "out",
                          put_right(moved(packet, number))))
    return found


def passed(path, captures):
    """{capture: numbers of the packets that came out}"""
    return {name: {i for i, (side, packet) in enumerate(packets)
                   if path.through(side, [packet])} for name, packets in captures.items()}


@pytest.fixture(scope="module")
def captures():
    if missing_rights():
        pytest.skip(missing_rights())
    return {name: packets_of(name, 1 + i) for i, name in enumerate(CAPTURES)}


@pytest.fixture(scope="module")
def by_linux(captures):
    with Lab() as lab:
        linux = referee.Linux(lab, FILTER, STRICT)
        lab.run("sh", "-ec", ROUTES, netns="linux")
        return passed(linux, captures)


@pytest.mark.parametrize("kind", ["embedded", "sprayed"])
def test_of_real_connections_the_same_passes_as_with_linux(captures, by_linux, kind):
    """[B28, B30, B31, B32; case 37, 39, 41; U3, U4]"""
    own = ours_with(f"function: firewall\n{FIREWALL_SECTION}", kind,
                    lambda path: passed(path, captures))
    differs = {name: sorted(by_linux[name] ^ own[name]) for name in CAPTURES
               if by_linux[name] != own[name]}
    assert differs == {name: sorted(n for numbers in known for n in numbers)
                       for name, known in DIFFERS.items()}
    assert sum(map(len, by_linux.values())) > 3500
