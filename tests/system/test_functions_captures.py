"""test_functions_captures.py - captures of real connections through Linux and through the
firewall: what nf_conntrack lets through, the firewall lets through, packet by packet.

Not the other way round: a capture whose payload was made unreadable has wrong checksums,
and Linux looks at those of every packet.
"""
import os
import struct

import pytest

import referee
from lab import Lab, missing_rights
from test_captures import ETHERNET, LINUX_COOKED, TRACES, read_capture
from test_functions_referee import FILTER, FIREWALL_SECTION, STRICT, ours_with

pytestmark = pytest.mark.skipif(not os.path.isdir(TRACES), reason=f"no captures in {TRACES}")

CAPTURES = [
    "dns-tcp", "ftp-v4", "http-206-ranges", "http-pipelined", "scan-nmap-version", "sip",
    "smtp-multi", "tcp-ctu-reordered", "tcp-fast-retransmit", "tcp-fin-retransmission",
    "tcp-options", "tcp-payload-on-syn", "tcp-port-reuse", "tcp-reassembly-synthetic",
    "tcp-retrans-wireshark", "tcp-sequence-wrap", "tcp-stream", "tcp-stream-max-seq",
    "tcp-syn-then-rst", "tcp-timeout-with-pings", "tcp-window-scale", "v6-http",
]
# {capture: {packet: why we refuse what Linux passes}}
REFUSED = {
    "http-206-ranges": dict.fromkeys(
        (1089, 1090, 1091, 1096, 1097, 1098, 1099),
        "the server sends past a window that is shut: over a window of it, if the receiver"
        " once had one as large, Linux turns a blind eye"),
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


def packets_of(name):
    """[(side, IP packet)]: the first sender of a pair of hosts is inside."""
    link, packets = read_capture(f"{TRACES}/special/{name}.pcap")
    assert link != LINUX_COOKED
    found, first = [], {}
    for frame, length in packets:
        if link == ETHERNET and frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
            continue
        packet = frame[14:] if link == ETHERNET else frame
        if packet[0] >> 4 == 4:
            packet = packet[:struct.unpack_from("!H", packet, 2)[0]]
            ends = packet[12:16], packet[16:20]
        else:
            ends = packet[8:24], packet[24:40]
        if len(packet) <= 1500 and length == len(frame):
            first.setdefault(frozenset(ends), ends[0])
            found.append(("in" if first[frozenset(ends)] == ends[0] else "out", packet))
    return found


def passed(path, captures):
    """{capture: numbers of the packets that came out}"""
    return {name: {i for i, (side, packet) in enumerate(packets)
                   if path.through(side, [packet])} for name, packets in captures.items()}


@pytest.fixture(scope="module")
def captures():
    if missing_rights():
        pytest.skip(missing_rights())
    return {name: packets_of(name) for name in CAPTURES}


@pytest.fixture(scope="module")
def by_linux(captures):
    with Lab() as lab:
        linux = referee.Linux(lab, FILTER, STRICT)
        lab.run("sh", "-ec", ROUTES, netns="linux")
        return passed(linux, captures)


@pytest.mark.parametrize("kind", ["embedded", "sprayed"])
def test_what_linux_passes_of_real_connections_passes(captures, by_linux, kind):
    """[B28, B30, B31, B32; case 41; U3, U4]"""
    own = ours_with(f"function: firewall\n{FIREWALL_SECTION}", kind,
                    lambda path: passed(path, captures))
    wrong = {name: sorted(by_linux[name] - own[name]) for name in CAPTURES
             if by_linux[name] - own[name] != set(REFUSED.get(name, ()))}
    assert not wrong
    assert sum(map(len, by_linux.values())) > 2000
