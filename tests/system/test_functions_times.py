"""test_functions_times.py - what time does to what functions remember: with the state in the
instance, in a store, and in a store that two instances share, of which each gets every
other packet.  The clock of who has the state is moved (shifted_clock.c), so that times are
those of the file, or the defaults, up to days.
"""
import os
import re
import struct
import time

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

from lab import BUILD, Lab, missing_rights
from referee import Script
from test_functions_referee import FIREWALL_SECTION, ours_with

CLOCK = f"{BUILD}/tests/shifted-clock.so"
CLOCK_ID = {"embedded": "6", "store": "1", "sprayed": "1"}  # What shifted_clock.c says.
SLACK_S = 0.25      # docs/functions.md: none is answered more than 0.2 s late.
settings = pytest.mark.parametrize("kind", ["embedded", "store", "sprayed"])


class Story(Script):
    """A script that moves the clock."""

    def __init__(self, path, number, clock, **more):
        super().__init__(path, number, **more)
        self.clock = clock

    def later(self, seconds):
        self.clock.seek(0)
        ahead, = struct.unpack("=Q", self.clock.read(8))
        self.clock.seek(0)
        self.clock.write(struct.pack("=Q", ahead + int(seconds * 1000)))
        time.sleep(SLACK_S)

    def echo(self, side, kind=None):
        return self.ip_of(side) / ICMP(type={"in": 8, "out": 0}[side] if kind is None else
                                       kind, id=self.port if side == "in" else self.seen[1])


def told(kind, text, tmp_path, stories, pool=None):
    """Each story in turn, of one instance or two, at a time of their own."""
    if missing_rights():
        pytest.skip(missing_rights())
    assert os.path.exists(CLOCK), f"{CLOCK} is not built"
    path = tmp_path / "clock"
    path.write_bytes(bytes(8))
    def play(ours):
        with open(path, "r+b", buffering=0) as clock:
            for number, story in enumerate(stories):
                story(Story(ours, 10 * number, clock, pool=pool))
    ours_with(text, kind, play, {"LD_PRELOAD": CLOCK, "SNF_CLOCK": str(path),
                                 "SNF_CLOCK_ID": CLOCK_ID[kind]})


# --- The firewall: as Linux ------------------------------------------------------------

# How a state is reached: the last word is the packet that tells whether it is still known.
HANDSHAKE = [("in", "S", 0, None), ("out", "SA", 0, 1), ("in", "A", 1, 1)]
TCP_STATES = {
    "tcp_timeout_syn_sent": [*HANDSHAKE[:1], HANDSHAKE[1]],
    "tcp_timeout_syn_recv": [*HANDSHAKE[:2], HANDSHAKE[2]],
    "tcp_timeout_established": [*HANDSHAKE, ("out", "A", 1, 1)],
    "tcp_timeout_fin_wait": [*HANDSHAKE, ("in", "FA", 1, 1), ("out", "A", 1, 2)],
    "tcp_timeout_close_wait": [*HANDSHAKE, ("in", "FA", 1, 1), ("out", "A", 1, 2),
                               ("out", "A", 1, 2)],
    "tcp_timeout_last_ack": [*HANDSHAKE, ("in", "FA", 1, 1), ("out", "FA", 1, 2),
                             ("in", "A", 2, 2)],
    "tcp_timeout_time_wait": [*HANDSHAKE, ("in", "FA", 1, 1), ("out", "FA", 1, 2),
                              ("in", "A", 2, 2), ("out", "FA", 1, 2)],
    "tcp_timeout_close": [*HANDSHAKE, ("out", "R", 1, None), ("in", "A", 1, 1)],
}
OTHER_STATES = {
    "udp_timeout": ["in"], "udp_timeout_stream": ["in", "out", "in"],
    "icmp_timeout": ["in"],
    "gre_timeout": ["in"], "gre_timeout_stream": ["in", "out", "in"],
    "generic_timeout": ["in"],
}


def packets_of(s, state, name):
    if name.startswith("tcp"):
        return [(side, s.tcp(side, flags, seq, ack)) for side, flags, seq, ack in state]
    make = {"udp": s.udp, "icmp": s.echo}.get(name.split("_")[0], lambda side: s.ip_of(
        side, proto=47 if name.startswith("gre") else 200) / Raw(bytes(8)))
    return [(side, make(side)) for side in [*state, "out"]]


def state_lasts(name, state, seconds):
    def story(s):
        def reach():
            *before, (side, packet) = packets_of(s, state, name)
            for at, p in before:
                s.passes(name, at, p)
            return side, packet
        def elsewhere(i):
            """Another connection; without ports, of other hosts."""
            s.port += 1
            s.client, s.server = f"10.0.0.{i}", f"192.0.2.{i}"
            s.seen = s.client, s.port
        elsewhere(s.port // 10 % 100 + 1)
        old = reach()
        s.later(3)
        elsewhere(s.port // 10 % 100 + 101)
        new = reach()
        s.later(seconds - 2)
        s.refused(f"{name}, 1 s after it", *old)
        s.passes(f"{name}, 2 s before it", *new)
    return story


@pytest.fixture(scope="module")
def linux_times():
    """{name: seconds}, as a namespace with conntrack has them."""
    if missing_rights():
        pytest.skip(missing_rights())
    with Lab() as lab:
        lab.host("linux")
        said = lab.run("sh", "-c", "sysctl -a -r 'net.netfilter.nf_conntrack_.*timeout'",
                       netns="linux")
    return {name: int(value) for name, value in
            re.findall(r"nf_conntrack_(\S*timeout\S*) = (\d+)", said)}


@settings
def test_the_firewall_remembers_for_as_long_as_linux(linux_times, kind, tmp_path):
    """[B27; case 31; U16] As this kernel says, not as it was written down."""
    stories = [state_lasts(name, state, linux_times[name]) for name, state in
               {**TCP_STATES, **OTHER_STATES}.items()]
    told(kind, f"function: firewall\n{FIREWALL_SECTION}", tmp_path, stories)


# --- The NAT ---------------------------------------------------------------------------

def udp_mapping(s):
    s.passes("UDP", "in", s.udp("in"))
    s.later(290)
    s.passes("one from inside refreshes", "in", s.udp("in"))
    s.later(290)
    s.passes("5 minutes have not passed", "out", s.udp("out"))
    s.later(11)
    s.refused("one from outside did not refresh", "out", s.udp("out"))


def error_about(s, got, kind=3, code=3):
    return s.ip_of("out", src="192.0.2.5") / ICMP(type=kind, code=code) / Raw(
        bytes(got[0])[:28])


def errors_refresh_nothing(s):
    got = s.passes("UDP", "in", s.udp("in"))
    s.later(200)
    s.passes("an error", "out", error_about(s, got))
    s.passes("ends nothing", "out", s.udp("out"))
    s.later(101)
    s.refused("and keeps nothing", "out", s.udp("out"))


def open_connection(s):
    s.opened()
    s.later(7430)
    s.passes("2 hours and 4 minutes", "out", s.tcp("out", "A", 1, 1))
    s.passes("refreshed from inside", "in", s.tcp("in", "A", 1, 1))
    s.later(7441)
    s.refused("and no more", "out", s.tcp("out", "A", 1, 1))


def opening_connection(s):
    s.passes("SYN", "in", s.tcp("in", "S", 0))
    s.later(235)
    s.passes("4 minutes", "out", s.tcp("out", "SA", 0, 1))
    s.port += 1
    s.passes("SYN of another", "in", s.tcp("in", "S", 0))
    s.later(241)
    s.refused("and no more", "out", s.tcp("out", "SA", 0, 1))


def closed_connection(s):
    s.opened()
    s.passes("FIN", "in", s.tcp("in", "FA", 1, 1))
    s.later(235)
    s.passes("half closed", "out", s.tcp("out", "A", 1, 2, b"x"))
    s.passes("its ACK", "in", s.tcp("in", "A", 2, 2))
    s.passes("FIN", "out", s.tcp("out", "FA", 2, 2))
    s.later(235)
    s.passes("FIN again", "out", s.tcp("out", "FA", 2, 2))
    s.later(6)
    s.refused("4 minutes", "out", s.tcp("out", "FA", 2, 2))


def reset_connection(s):
    s.opened()
    s.passes("RST", "out", s.tcp("out", "R", 1))
    s.later(235)
    s.passes("RST again", "out", s.tcp("out", "R", 1))
    s.later(6)
    s.refused("did not refresh", "out", s.tcp("out", "R", 1))


def query(s):
    got = s.passes("echo", "in", s.echo("in"))
    s.seen = got[0].src, got[0][ICMP].id
    s.later(58)
    s.passes("a minute", "out", s.echo("out"))
    s.later(3)
    s.refused("and no more", "out", s.echo("out"))


def unsolicited_syn(s):
    s.opened()
    stranger = {"ip": {"src": "192.0.2.7"}, "sport": 4000}
    def answered():
        return [(p.src, p.dst, p[ICMP].type, p[ICMP].code) for p in s.path.back]
    s.refused("SYN of a stranger", "out", s.tcp("out", "S", 0, **stranger))
    assert answered() == []
    s.later(4)
    s.refused("again, within 6 s", "out", s.tcp("out", "S", 0, **stranger))
    assert answered() == []
    s.later(3)
    s.refused("after 6 s", "out", s.tcp("out", "S", 0, **stranger))
    assert answered() == [(s.pool, "192.0.2.7", 3, 3)]
    stranger = {"ip": {"src": "192.0.2.8"}, "sport": 4000}
    s.refused("SYN of another", "out", s.tcp("out", "S", 0, **stranger))
    s.later(3)
    s.passes("which was wanted", "in", s.tcp("in", "S", 0, ip={"dst": "192.0.2.8"},
                                             dport=4000))
    s.passes("both have opened", "out", s.tcp("out", "SA", 0, 1, **stranger))


@settings
def test_the_nat_remembers_for_as_long_as_rfcs_say(kind, tmp_path):
    """[B6, B7, B11, B15, B16, B17; case 13, 31; U16]"""
    told(kind, "function: nat\nnat: {addresses: [203.0.113.1]}\n", tmp_path,
         [udp_mapping, errors_refresh_nothing, open_connection, opening_connection,
          closed_connection, reset_connection, query, unsolicited_syn], "203.0.113.1")


def port_rests(s):
    s.passes("the only port", "in", s.udp("in"))
    other = {"ip": {"src": "10.0.0.2"}}
    s.refused("is taken", "in", s.udp("in", **other))
    s.later(301)
    s.refused("it rests", "in", s.udp("in", **other))
    s.later(110)
    s.refused("for 2 minutes", "in", s.udp("in", **other))
    s.later(11)
    s.passes("then it is another's", "in", s.udp("in", **other))
    s.refused("and no more the first one's", "in", s.udp("in"))


@settings
def test_a_port_rests_before_another_gets_it(kind, tmp_path):
    """[B20; U15, U16]"""
    told(kind, "function: nat\nnat: {addresses: [203.0.113.1], ports: 2000}\n", tmp_path,
         [port_rests], "203.0.113.1")


# --- The load balancer -----------------------------------------------------------------

LB = """
function: lb
lb:
  services:
    - {address: "192.0.2.1:80", backends: ["10.0.0.1:8080"], idle: 60s, opening: 5s}
    - {address: "192.0.2.1:53", backends: ["10.0.0.1:5353"], protocol: udp, idle: 20s}
"""


def of_service(s, side, flags, *numbers, **more):
    """Here the client is outside."""
    to = {"sport": s.port, "dport": 80} if side == "out" else {"sport": 8080, "dport": s.port}
    ends = {"src": "192.0.2.9", "dst": "192.0.2.1"} if side == "out" else \
        {"src": "10.0.0.1", "dst": "192.0.2.9"}
    return s.tcp(side, flags, *numbers, ip=ends, **to, **more)


def silent_connection(s):
    s.passes("SYN", "out", of_service(s, "out", "S", 0))
    s.later(6)
    s.refused("a SYN alone is gone in seconds", "in", of_service(s, "in", "SA", 0, 1))
    for again in range(2):
        s.port += 1
        s.passes("SYN", "out", of_service(s, "out", "S", 0))
        s.passes("SYN/ACK", "in", of_service(s, "in", "SA", 0, 1))
        s.passes("ACK", "out", of_service(s, "out", "A", 1, 1))
        s.later(55)
        s.passes("still there", "in", of_service(s, "in", "A", 1, 1))
        s.later(66)
        first, second = ("in", "out") if again else ("out", "in")
        for side in (first, second):
            s.refused("silent for too long", side, of_service(s, side, "A", 1, 1))
            assert [p[TCP].flags.R for p in s.path.back] == [True]


def silent_flow(s):
    question = IP(src="192.0.2.9", dst="192.0.2.1") / UDP(sport=s.port, dport=53) / Raw(b"?")
    answer = IP(src="10.0.0.1", dst="192.0.2.9") / UDP(sport=5353, dport=s.port) / Raw(b"!")
    s.passes("question", "out", question)
    s.later(18)
    assert s.passes("answer", "in", answer)[0].src == "192.0.2.1"
    s.later(25)
    late = s.send("late", "in", answer)
    assert not late or late[0].src != "192.0.2.1"


@settings
def test_each_service_has_its_times(kind, tmp_path):
    """[B53; U21, U25] And both ends are told."""
    told(kind, LB, tmp_path, [silent_connection, silent_flow])
