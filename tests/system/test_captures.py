"""test_captures.py - real traffic from capture files through an instance as a filter.

Each capture is split by direction: the first sender of a pair of hosts is inside.  What
an instance lets out must be the same bytes whether its state lies in the process, in a
store, or in a store that two instances share, of which each gets every other packet.  And
nothing that is in a capture, however malformed, may end an instance.
"""
import glob
import gzip
import os
import re
import shutil
import struct
import subprocess
import time
from types import SimpleNamespace

import pytest

from lab import BUILD, REPO, wait_for
from store_client import MODULE, Server, die_with_parent
from telemetry import Telemetry, settled

TRACES = os.environ.get("SNF_TRACES", os.path.join(REPO, "..", "shared", "traces"))
SNF = os.path.join(BUILD, "snf")
ASAN = os.path.join(BUILD, "asan", "snf")
DEADLINE_S = 120
FIRST = 1_000_000       # Time stamp of the first packet.
MAGIC, HEAD = 0xa1b2c3d4, struct.Struct("<IHHiIII")
RECORD = struct.Struct("<IIII")
ETHERNET, RAW_IP, LINUX_COOKED, RAW_IP4 = 1, 101, 113, 228

pytestmark = [
    pytest.mark.skipif(not os.path.exists(SNF), reason=SNF + " is not built"),
    pytest.mark.skipif(not os.path.isdir(TRACES), reason=f"no captures in {TRACES}"),
]

# Fragments that come before their datagram's first one, or twice.  One that waits leaves with
# the time, which here is the number, of the one that it waited for; of two copies that wait,
# one leaves.  Whether one waits depends on what is in flight: test_fragments.c has the cases.
OUT_OF_ORDER = ("special/frag-v4-3000.pcap", "special/frag-v4-http-padding.pcap",
                "special/frag-v4-many.pcap")

# What goes through one process together: a start costs more than a thousand packets.
GROUPS = {
    "special cases": ("special/*.pcap", ETHERNET),
    "special cases, raw IP": ("special/*.pcap", RAW_IP),
    "special cases, raw IPv4": ("*/**/*.pcap", RAW_IP4),
    "Linux cooked": ("*/**/*.pcap", LINUX_COOKED),
    "enterprise templates": ("enterprise-templates/*.pcap", ETHERNET),
    "attacks": ("ips/*/input.pcap", ETHERNET),
    "sumstat": ("large/sumstat.pcap", ETHERNET),
    "mercury": ("large/mercury-capture2.pcap", ETHERNET),
    "a domain controller": ("large/newyork-domain-controller.pcap", ETHERNET),
    "many protocols": ("large/many-protocols.pcap", ETHERNET),
    "tcpreplay": ("large/tcpreplay-test.pcap", ETHERNET),
    "136 captures of nDPI": ("large/composite-ndpi.pcap", ETHERNET),
    "500 connections": ("large/echo-connections.pcap.gz", ETHERNET),
}
# Packet by packet, 82,582 packets take too long.
IN_STEP = [name for name in GROUPS if name != "500 connections"]


# --- Capture files ---------------------------------------------------------------------

def read_capture(path):
    """Its link type and its packets, as (bytes, length on the wire)."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        data = file.read()
    magic, _, _, _, _, _, link = HEAD.unpack_from(data)
    assert magic == MAGIC, path
    packets, at = [], HEAD.size
    while at < len(data):
        _, _, bytes_here, bytes_there = RECORD.unpack_from(data, at)
        at += RECORD.size
        packets.append((data[at:at + bytes_here], bytes_there))
        at += bytes_here
    return link & 0xfffffff, packets


def head(link):
    return HEAD.pack(MAGIC, 2, 4, 0, 0, 262144, link)


def record(index, packet):
    """Times are the packets' numbers: in order, each only once."""
    data, bytes_there = packet
    return RECORD.pack(*divmod(FIRST + index, 1_000_000), len(data), bytes_there) + data


def records(data):
    """{number of the packet: its record} of an instance's output."""
    found, at = {}, HEAD.size
    while at < len(data):
        seconds, micros, bytes_here, _ = RECORD.unpack_from(data, at)
        end = at + RECORD.size + bytes_here
        found[seconds * 1_000_000 + micros - FIRST] = data[at:end]
        at = end
    return found


def endpoints(link, frame):
    """Source and destination: of IP if the packet is that, else of Ethernet.  Between
    equal addresses, ports."""
    at = {ETHERNET: 14, LINUX_COOKED: 16}.get(link, 0)
    kind = frame[at - 2:at] if at else {4: b"\x08\0", 6: b"\x86\xdd"}.get(frame[0] >> 4)
    while kind in (b"\x81\0", b"\x88\xa8"):
        at += 4
        kind = frame[at - 2:at]
    if kind == b"\x08\0":
        ports = at + (frame[at] & 15) * 4 if at < len(frame) else at
        source, destination = frame[at + 12:at + 16], frame[at + 16:at + 20]
    elif kind == b"\x86\xdd":
        ports = at + 40
        source, destination = frame[at + 8:at + 24], frame[at + 24:at + 40]
    else:
        return frame[6:12], frame[:6]
    if source == destination:
        return frame[ports:ports + 2], frame[ports + 2:ports + 4]
    return source, destination


def load(name):
    """A group: its link type, and (side, packet, file) of each packet; 0 is inside."""
    pattern, wanted = GROUPS[name]
    packets = []
    for path in sorted(glob.glob(os.path.join(TRACES, pattern), recursive=True)):
        link, found = read_capture(path)
        if link != wanted or path.endswith(OUT_OF_ORDER):
            continue
        inside = {}
        for packet in found:
            source, destination = endpoints(link, packet[0])
            first = inside.setdefault(frozenset((source, destination)), source)
            packets.append((int(source != first), packet, os.path.relpath(path, TRACES)))
    return wanted, packets


@pytest.fixture(scope="module")
def group():
    """Gives a group by name, and reads it once."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = load(name)
        return known[name]
    return get


# --- Instances -------------------------------------------------------------------------

def config(folder, store="embedded:", function="firewall", options=""):
    text = (f'function: {function}\nstore: "{store}"\nmemory: 128\nports:\n'
            f'  inside: "pcap:{folder}/in0,{folder}/out0"\n'
            f'  outside: "pcap:{folder}/in1,{folder}/out1"\n{options}')
    path = folder / "snf.yaml"
    path.write_text(text)
    return path


def environment(folder, **more):
    return {**os.environ, "RUNTIME_DIRECTORY": str(folder), **more}


def outcome(folder, log):
    """What came out, and the instance's own account of it."""
    names = ("received", "sent", "kept", "emitted", "injected")
    line = re.search(", ".join(rf"{name} (\d+)" for name in names), log)
    counts = dict(zip(names, map(int, line.groups())))
    dropped = {reason: int(n) for n, reason in re.findall(r"dropped (\d+), reason (\w+)", log)}
    return SimpleNamespace(out=[(folder / f"out{side}").read_bytes() for side in (0, 1)],
                           dropped=dropped, **counts)


def write_sides(folder, link, packets):
    sides = [[head(link)], [head(link)]]
    for index, (side, packet, _) in enumerate(packets):
        sides[side].append(record(index, packet))
    for side in (0, 1):
        (folder / f"in{side}").write_bytes(b"".join(sides[side]))


def filtered(folder, link, packets, store="embedded:", program=SNF, env=None, **more):
    """The packets through one instance, to its end."""
    folder.mkdir()
    write_sides(folder, link, packets)
    done = subprocess.run([program, "run", config(folder, store, **more)], text=True,
                          capture_output=True, timeout=DEADLINE_S, preexec_fn=die_with_parent,
                          env=environment(folder, **(env or {})))
    assert done.returncode == 0, done.stderr[-5000:]
    return outcome(folder, done.stderr)


class Stepped:
    """An instance whose captures are named pipes: it gets a packet when we say so."""

    def __init__(self, folder, link, store):
        folder.mkdir()
        self.folder = folder
        self.given = 0
        for side in (0, 1):
            os.mkfifo(folder / f"in{side}")
        self.log = folder / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([SNF, "run", config(folder, store)], stderr=log,
                                            preexec_fn=die_with_parent, env=environment(folder))
        self.pipes, self.telemetry = [], None
        try:
            wait_for(self.ready, 30, "a start")
            for side in (0, 1):
                self.pipes.append(open(folder / f"in{side}", "wb", buffering=0))
                self.pipes[side].write(head(link))
            self.telemetry = Telemetry(self.process.pid, folder)
        except BaseException:
            self.kill()
            raise

    def ready(self):
        assert self.process.poll() is None, self.log.read_text()
        return "ready" in self.log.read_text()

    def give(self, index, side, packet):
        """Returns when it is through."""
        self.pipes[side].write(record(index, packet))
        self.given += 1
        end = time.monotonic() + 10
        while settled(self.telemetry.stats()) < self.given:
            assert time.monotonic() < end, f"packet {index} is stuck"

    def close(self):
        if self.telemetry is not None:
            self.telemetry.close()
        for pipe in self.pipes:
            pipe.close()

    def finish(self):
        self.close()
        assert self.process.wait(30) == 0, self.log.read_text()
        return outcome(self.folder, self.log.read_text())

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.close()


@pytest.fixture
def tmp(tmp_path):
    """A folder that is gone afterwards: pytest keeps its own, and captures are long."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def store(tmp):
    if not os.path.exists(MODULE):
        pytest.skip(MODULE + " is not built")
    folder = tmp / "store"
    folder.mkdir()
    with Server(folder) as server:
        yield "valkey+unix://" + server.path


@pytest.fixture(scope="module")
def embedded(group, tmp_path_factory):
    """What a group's packets become with the state in the process.  Computed once."""
    known = {}

    def get(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("embedded") / "snf"
            known[name] = filtered(folder, *group(name))
            shutil.rmtree(folder)
        return known[name]
    return get


def assert_same(packets, want, got):
    """The bytes of both sides; if they differ, first says whose packet it was."""
    for side in (0, 1):
        a, b = records(want[side]), records(got[side])
        differ = sorted(i for i in a.keys() | b.keys() if a.get(i) != b.get(i))
        assert not differ, (f"{len(differ)} packets, the first is number {differ[0]} of side "
                            f"{side}, of {packets[differ[0]][2]}")
        assert want[side] == got[side]


def merged(outs):
    """The outputs of several instances, in the order of the packets."""
    sides = []
    for side in (0, 1):
        found = {}
        for out in outs:
            found.update(records(out[side]))
        sides.append(outs[0][side][:HEAD.size] + b"".join(found[i] for i in sorted(found)))
    return sides


def total(outcomes):
    """Drops by reason, of all of them."""
    sums = {}
    for one in outcomes:
        for reason, n in one.dropped.items():
            sums[reason] = sums.get(reason, 0) + n
    return sums


# --- Tests -----------------------------------------------------------------------------

@pytest.mark.parametrize("name", GROUPS)
def test_a_store_changes_no_byte(group, embedded, store, tmp, name):
    link, packets = group(name)
    want = embedded(name)
    got = filtered(tmp / "snf", link, packets, store)
    assert_same(packets, want.out, got.out)
    assert got.dropped == want.dropped
    assert want.received == len(packets) == (
        want.sent + want.kept + sum(want.dropped.values()) - want.injected)


@pytest.mark.parametrize("name", IN_STEP)
def test_two_instances_given_alternate_packets_change_no_byte(group, embedded, store, tmp,
                                                              name):
    """U3, U4, B72: whoever gets a packet knows all that the other has seen."""
    link, packets = group(name)
    want = embedded(name)
    instances = []
    try:
        for i in (0, 1):
            instances.append(Stepped(tmp / f"snf{i}", link, store))
        for index, (side, packet, _) in enumerate(packets):
            instances[index % 2].give(index, side, packet)
        outcomes = [instance.finish() for instance in instances]
    finally:
        for instance in instances:
            instance.kill()
    assert_same(packets, want.out, merged([o.out for o in outcomes]))
    assert total(outcomes) == want.dropped


@pytest.mark.parametrize("name", ["enterprise templates", "special cases"])
def test_an_instance_killed_between_two_packets_changes_no_byte(group, embedded, store, tmp,
                                                                name):
    """In turn, each takes 50 packets, is killed, and the next goes on."""
    link, packets = group(name)
    packets = packets[:1000]
    want = filtered(tmp / "embedded", link, packets)
    outs, instance = [], None
    try:
        for index, (side, packet, _) in enumerate(packets):
            if index % 50 == 0:
                if instance is not None:
                    outs.append(killed(instance))
                instance = Stepped(tmp / f"snf{index}", link, store)
            instance.give(index, side, packet)
        outs.append(instance.finish().out)
    finally:
        if instance is not None:
            instance.kill()
    assert_same(packets, want.out, merged(outs))


def killed(instance):
    """Ends it without notice; what it has sent is in its files by then."""
    sent = instance.telemetry.stats()["sent"]

    def written():
        out = [(instance.folder / f"out{side}").read_bytes() for side in (0, 1)]
        return out if sum(len(records(o)) for o in out) == sent else None
    out = wait_for(written, 10, "the output")
    instance.kill()
    return out


# Packets of a file that get through, of how many, and why.
SPECIAL = [
    ("tcp-stream", 36, 36, "a connection"),
    ("tcp-stream-max-seq", 33, 36, "a connection whose numbers wrap; 3 SACKs are of others"),
    ("tcp-retrans-wireshark", 108, 108, "repeats of every kind"),
    ("tcp-port-reuse", 7, 8, "a second connection with the ports of the first; a RST that"
     " acknowledges nothing is no answer to a SYN"),
    ("tcp-options", 4, 4, "TCP options"),
    ("tcp-payload-on-syn", 6, 6, "data on a SYN"),
    ("tcp-syn-then-rst", 2, 2, "a connection given up"),
    ("dns-tcp", 20, 20, "two connections"),
    ("http-206-ranges", 1556, 1556, "long connections; a server that ignores a shut window"),
    ("jumbo", 22, 22, "frames of more than one buffer"),
    ("udp-64", 1, 1, "the smallest frame"),
    ("udp-1518", 1, 1, "the largest frame"),
    ("sip", 81, 81, "UDP both ways"),
    ("v6-http", 55, 55, "IPv6 and what it needs of ICMPv6"),
    ("vlan-http", 14, 14, "a VLAN"),
    ("vlan-qinq", 5, 5, "a VLAN in a VLAN"),
    ("sctp", 84, 84, "a protocol without ports that we know"),
    ("gre", 40, 40, "a tunnel"),
    ("icmp6-toobig", 1, 1, "B35: type 2 always passes"),
    ("tcp-missing-syn", 0, 21, "B29: not picked up midstream"),
    ("stream-missing-packet-oneway", 1, 14, "B29: no answer was seen to the SYN"),
    ("tcp-single-rst", 0, 1, "of no connection"),
    ("tcp-rst-with-data", 0, 1, "of no connection"),
    ("tcp-all-flags", 0, 1, "flags that contradict each other"),
    ("icmp-destunreach-udp", 0, 1, "B28: an error about no known flow"),
    ("icmp-timeexceeded", 0, 1, "B28: an error about no known flow"),
    ("checksum-bad-ip4", 0, 1, "B39: creates no state"),
    ("checksum-bad-tcp", 0, 1, "B39: creates no state"),
    ("checksum-bad-udp", 0, 1, "B39: creates no state"),
    ("tcp-truncated-header", 0, 24, "headers that were cut"),
    ("malformed-ip4-trunc", 0, 1, "malformed"),
    ("malformed-ip4-broken-header", 0, 1, "malformed"),
    ("malformed-ip6-ext-trunc", 0, 1, "malformed"),
    ("malformed-ipv6-length", 0, 1, "malformed"),
    ("malformed-tcp-offset", 0, 1, "malformed"),
    ("malformed-udp-length", 0, 1, "malformed"),
]


@pytest.mark.parametrize("name,through,of,why", SPECIAL, ids=[case[0] for case in SPECIAL])
def test_of_a_special_case_what_belongs_passes(group, embedded, name, through, of, why):
    kind = "special cases, raw IP" if name == "tcp-payload-on-syn" else "special cases"
    _, packets = group(kind)
    numbers = [i for i, packet in enumerate(packets) if packet[2] == f"special/{name}.pcap"]
    passed = {index for out in embedded(kind).out for index in records(out)}
    assert len(numbers) == of
    assert len(passed.intersection(numbers)) == through, why


# --- Whatever comes --------------------------------------------------------------------

FUNCTIONS = {
    "firewall": "",
    "nat": "nat:\n  addresses: [198.51.100.1, 198.51.100.2]\n",
    # A web server of 101 connections in sumstat.pcap.
    "lb": 'lb:\n  address: "192.150.187.43:80"\n'
          '  backends: ["10.0.0.2:80", "10.0.0.3:8080"]\n',
    "reassembly": "",
    "ips": "ips:\n  midstream: inspect\n  signatures:\n"
           "    - {id: 1, action: alert, content: 'GET /'}\n"
           "    - {id: 2, action: drop, content: 'uid=0|28|root|29|'}\n",
}
SANITIZERS = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "halt_on_error=1"}


@pytest.fixture(scope="module")
def everything(group):
    """All packets that are in Ethernet frames, and no more than once."""
    return [packet for name, (_, link) in GROUPS.items()
            if link == ETHERNET and name != "500 connections" for packet in group(name)[1]]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_capture_ends_an_instance(everything, store, tmp, function):
    """And no store changes what a function does that leaves nothing to chance."""
    options = {"function": function, "options": FUNCTIONS[function]}
    done = filtered(tmp / "snf", ETHERNET, everything, store, **options)
    assert done.received == len(everything) == (
        done.sent + done.kept + sum(done.dropped.values()) - done.injected)
    assert done.sent > 0
    if function != "nat":               # Its ports are random.
        want = filtered(tmp / "embedded", ETHERNET, everything, **options)
        assert done.dropped == want.dropped
        assert all(one == other for one, other in zip(done.out, want.out))


@pytest.mark.parametrize("where", ["embedded", "store"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_capture_is_found_wanting_by_the_sanitizers(everything, store, tmp, function,
                                                       where):
    if not os.path.exists(ASAN):
        pytest.skip(ASAN + " is not built: scripts/check does it")
    done = filtered(tmp / "snf", ETHERNET, everything,
                    store if where == "store" else "embedded:", ASAN, SANITIZERS,
                    function=function, options=FUNCTIONS[function])
    assert done.received == len(everything)
