"""test_functions_settings.py - what has no referee and takes no time: with the state in the
instance, in a store, and in a store that two instances share, of which each gets every
other packet.
"""
import signal
import time

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig
from scapy.packet import Raw

from lab import missing_rights, wait_for
from referee import MAC, OTHER, Script, framed
from test_functions_referee import ours_with

settings = pytest.mark.parametrize("kind", ["embedded", "store", "sprayed"])
POOL = "203.0.113.1"


def told(kind, text, story, **more):
    if missing_rights():
        pytest.skip(missing_rights())
    return ours_with(text, kind, lambda ours: story(Script(ours, 0, **more)))


# --- The NAT ---------------------------------------------------------------------------

def ports_of(s):
    """Of 200 endpoints, half of them on ports below 1024."""
    found = []
    for i in range(200):
        s.client, s.port = f"10.0.0.{1 + i % 4}", 300 + i * 9
        found.append(s.passes("UDP", "in", s.udp("in"))[0].sport)
        assert s.passes("its answer", "out", s.udp("out"))[0][UDP].dport == s.port
    return found


@settings
def test_outside_ports_are_of_one_each_and_in_no_order(kind):
    """[B3, B4, B5]"""
    found = told(kind, f"function: nat\nnat: {{addresses: [{POOL}]}}\n", ports_of, pool=POOL)
    assert len(set(found)) == 200 and min(found) >= 1024
    steps = [b - a for a, b in zip(found, found[1:])]
    assert len(set(steps)) > 150 and sum(step > 0 for step in steps) in range(60, 140)


def too_long(s):
    whole = s.udp("in", bytes(1372))
    assert len(s.passes("as long as may be", "in", s.udp("in", bytes(1272)))[0]) == 1300
    s.refused("may not be cut", "in", s.udp("in", bytes(1372), {"flags": "DF"}))
    error, = s.path.back
    assert (error.src, error.dst) == (s.server, s.client)
    assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1300)
    assert bytes(error[ICMP].payload)[12:24] == bytes(IP(bytes(s.udp(
        "in", bytes(1372), {"flags": "DF"}))))[12:24]
    parts = s.path.through("in", [bytes(whole)])
    assert [len(part) <= 1300 for part in parts] == [True, True]
    assert b"".join(bytes(part.payload) for part in sorted(parts, key=lambda p: p.frag))[8:] \
        == bytes(1372)
    assert len(s.path.through("out", [bytes(s.udp("out", bytes(1372)))])) == 1
    assert s.path.back == []


def too_long6(s):
    s.refused("may not be cut", "in", s.udp("in", bytes(1300)))
    error, = s.path.back
    assert error.dst == s.client and error[ICMPv6PacketTooBig].mtu == 1300
    s.passes("fits", "in", s.udp("in", bytes(1252)))
    s.passes("the other way there is room", "out", s.udp("out", bytes(1300)))


MTU = "mtu: {inside: 1500, outside: 1300}\n"


@settings
def test_what_is_too_long_is_answered_or_cut(kind):
    """[B12; U18]"""
    told(kind, f"function: nat\n{MTU}nat: {{addresses: [{POOL}]}}\n", too_long, pool=POOL)
    told(kind, f"function: firewall\n{MTU}", too_long6, ip=6)


def numbered_alike(s):
    numbers = []
    for client in ("10.0.0.1", "10.0.0.2"):
        s.client = client
        got = [s.path.through("in", [bytes(part)])[0] for part in fragment(
            s.udp("in", bytes(2000), {"id": 77}), 800)]
        assert len({p.id for p in got}) == 1 and {p.src for p in got} == {POOL}
        numbers.append(got[0].id)
    assert numbers[0] != numbers[1]


@settings
def test_two_hosts_fragments_are_not_mixed_up(kind):
    """[B13, B23; U19]"""
    told(kind, f"function: nat\nnat: {{addresses: [{POOL}]}}\n", numbered_alike)


# --- The firewall ----------------------------------------------------------------------

REJECT = """
function: firewall
refusals: REFUSALS
firewall:
  rules: [{action: reject, direction: out, destination_ports: 25, protocol: [tcp, udp]}]
  default: {out: allow, in: reject}
"""


def rejections(s):
    s.server_port = 25
    s.refused("SYN", "in", s.tcp("in", "S", 7, data=b"abc"))
    rst, = s.path.back
    syn = s.tcp("in", "S", 7)[TCP]
    assert (rst.src, rst[TCP].sport) == (s.server, 25)
    assert (rst.dst, rst[TCP].dport) == (s.client, s.port)
    assert rst[TCP].flags == "RA" and rst[TCP].seq == 0 and rst[TCP].ack == syn.seq + 1 + 3
    s.refused("datagram", "in", s.udp("in"))
    error, = s.path.back
    assert error.dst == s.client and (error[ICMP].type, error[ICMP].code) == (3, 13)
    s.server_port = 80
    s.refused("from outside", "out", s.udp("out"))
    error, = s.path.back
    assert error.dst == s.server and (error[ICMP].type, error[ICMP].code) == (3, 13)


def rejections6(s):
    s.refused("from outside", "out", s.udp("out"))
    error, = s.path.back
    assert error.dst == s.server and error[ICMPv6DestUnreach].code == 1


def many_rejections(s):
    s.server_port, answers = 25, 0
    start = time.monotonic()
    for i in range(200):
        s.port += 1
        s.refused("SYN", "in", s.tcp("in", "S", 0))
        answers += len(s.path.back)
    n = len(s.path.instances)
    assert 5 * n <= answers <= 5 * n * (time.monotonic() - start + 1) + n


@settings
def test_who_is_rejected_is_told_at_a_limited_rate(kind):
    """[B36]"""
    text = REJECT.replace("REFUSALS", "1000")
    told(kind, text, rejections)
    told(kind, text, rejections6, ip=6)
    told(kind, REJECT.replace("REFUSALS", "5"), many_rejections)


def lose_store(s, passes):
    """Both ways, once everything is asked of the store no more; then it is back."""
    s.opened()
    for i in range(4):                      # So that both instances have seen it.
        s.passes("data", "in", s.tcp("in", "PA", 1 + i, 1, b"x"))
        s.passes("data", "out", s.tcp("out", "PA", 1 + i, 1, b"x"))
    s.path.store.kill(signal.SIGKILL)
    def lost():
        s.path.through("in", [bytes(s.udp("in", sport=7))])
        return all(t.stats()["dropped"]["store_lost"] for t in s.path.telemetry)
    wait_for(lost, 20, "the loss")
    known = s.passes if passes else s.refused
    for i in range(4):
        known("known", "in", s.tcp("in", "PA", 5 + i, 1, b"x"))
        known("known", "out", s.tcp("out", "PA", 5 + i, 1, b"x"))
        s.port += 1
        s.refused("new", "in", s.tcp("in", "S", 0))
        s.refused("unknown", "out", s.tcp("out", "A", 1, 1, dport=7))
        s.port -= 1
    s.path.store.start()
    def back():
        s.port += 1
        return s.path.through("in", [bytes(s.udp("in", sport=s.port + 1000))])
    wait_for(back, 20, "its return")


@pytest.mark.parametrize("kind", ["store", "sprayed"])
@pytest.mark.parametrize("how", ["drop", "established"])
def test_without_the_store_the_file_decides(kind, how):
    """[B38]"""
    told(kind, f"function: firewall\non_store_loss: {how}\n",
         lambda s: lose_store(s, how == "established"))


def two_vlans(s):
    def through(side, vlan, packet):
        """Whether it comes out, with its tag."""
        frame = framed(bytes(packet), MAC[OTHER[side]], MAC[side])
        tagged = frame[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + frame[12:]
        return s.path.frames(side, tagged)[0] == [tagged]
    assert through("in", 5, s.tcp("in", "S", 0))
    assert not through("out", 6, s.tcp("out", "SA", 0, 1))
    assert through("in", 6, s.tcp("in", "S", 700))
    assert through("out", 5, s.tcp("out", "SA", 0, 1))
    assert through("out", 6, s.tcp("out", "SA", 0, 701))
    assert through("in", 5, s.tcp("in", "A", 1, 1))
    assert through("out", 5, s.tcp("out", "R", 1))
    assert through("in", 6, s.tcp("in", "A", 701, 1))
    assert through("out", 6, s.tcp("out", "PA", 1, 701, b"x"))
    assert not through("out", 7, s.tcp("out", "PA", 1, 701, b"x"))
    s.refused("nor is it one without a tag", "out", s.tcp("out", "PA", 1, 701, b"x"))


@settings
def test_equal_addresses_in_two_vlans_do_not_mix(kind):
    """[B40]"""
    told(kind, "function: firewall\nzone: vlan\n", two_vlans)


# --- The load balancer -----------------------------------------------------------------

def balanced(n, weights="1" * 5):
    backends = ", ".join(f'{{address: "10.0.0.{i + 1}:80", weight: {weights[i]}}}'
                         for i in range(n))
    return ("function: lb\nlb:\n  services:\n    - {address: '203.0.113.1:80', scheduler:"
            f" maglev, backends: [{backends}]}}\n")


def from_client(i, flags, data=b"", **more):
    return bytes(IP(src="192.0.2.1", dst=POOL) / TCP(sport=1024 + i, dport=80, flags=flags,
                                                   **more) / Raw(data))


def choice(s, i):
    """The backend of a new flow."""
    syn, = s.path.through("out", [from_client(i, "S")])
    answer = IP(src=syn.dst, dst="192.0.2.1") / TCP(sport=80, dport=1024 + i, flags="SA",
                                                  ack=1)
    back, = s.path.through("in", [bytes(answer)])
    assert back.src == POOL
    return syn.dst


def choices(s):
    found = [choice(s, i) for i in range(300)]
    goes_on(s, found)
    return found


def goes_on(s, found):
    """Each flow at the backend that it has."""
    for i, backend in enumerate(found):
        got, = s.path.through("out", [from_client(i, "PA", b"x", seq=1, ack=1)])
        assert got.dst == backend


def reload(s, old, new):
    for process in s.path.instances:
        path = f"{s.path.lab.dir}/{process.name}.yaml"
        with open(path) as file:
            text = file.read()
        assert old in text
        with open(path, "w") as file:
            file.write(text.replace(old, new, 1))
        seen = process.log().count("in force")
        process.kill(signal.SIGHUP)
        wait_for(lambda: process.log().count("in force") > seen, 10, process.log())


def choices_and_changes(s):
    """What is open stays where it is; a backend that is drained, or gone, gets no more."""
    found = choices(s)
    first = '{address: "10.0.0.1:80", weight: 1}'
    drained, heavy = first.replace("1}", "0}"), first.replace("1}", "9}")
    for i, (old, new) in enumerate([(first, heavy), (heavy, drained), (drained + ", ", "")]):
        reload(s, old, new)
        goes_on(s, found)
        later = [choice(s, 1000 + 100 * i + k) for k in range(50)]
        assert ("10.0.0.1" in later) == (new == heavy)
    return found


@pytest.fixture(scope="module")
def first_choices():
    """By the number of backends: the first to ask decides what all have to choose."""
    return {}


@settings
def test_every_instance_has_the_same_table(first_choices, kind):
    """[B41, B42, B45, B54; U11, U22, U23] In every setting the same flow gets the same
    backend, and one backend less moves nobody else's."""
    five = told(kind, balanced(5), choices_and_changes)
    assert five == first_choices.setdefault(5, five)
    assert min(five.count(f"10.0.0.{i}") for i in range(1, 6)) > 300 / 5 * 0.6
    four = told(kind, balanced(4), choices)
    moved = [a for a, b in zip(five, four) if a != b and a != "10.0.0.5"]
    assert len(moved) <= 0.02 * 300
