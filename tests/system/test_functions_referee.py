"""test_functions_referee.py - Linux as the referee: what nf_conntrack lets through, the
firewall and the NAT let through, and what it refuses they refuse.  Where they differ on
purpose, a table has the step and the reason; anything else is a failure, and so is a
difference in the table that is none.
"""
import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption, fragment
from scapy.layers.inet6 import (ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig,
                                IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
                                IPv6ExtHdrHopByHop)
from scapy.packet import Raw

import referee
from lab import Lab, missing_rights, wait_for
from referee import Script

# What conntrack makes of a packet, and nothing else.
FILTER = """
table inet filter {
  chain forward {
    type filter hook forward priority 0; policy drop;
    meta l4proto 253 accept
    ct state established,related accept
    ct state invalid drop
    iifname "in0" ct state new accept
  }
  chain input {
    type filter hook input priority 0; policy drop;
  }
}
"""
NAT = """
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    meta l4proto 253 accept
    oifname "out0" snat to 203.0.113.1
  }
}
"""
STRICT = ("net.netfilter.nf_conntrack_tcp_loose=0",)
POOL = "203.0.113.1"
NAT_SECTION = """
nat:
  addresses: [203.0.113.1]
  mapping: endpoint_dependent
  filtering: address_and_port
"""
FIREWALL_SECTION = "firewall: {rules: [{action: allow, direction: out}]}\n"


# --- What is played --------------------------------------------------------------------

def handshake_and_close(s):
    s.opened()
    s.send("data", "in", s.tcp("in", "PA", 1, 1, b"x" * 100))
    s.send("answer", "out", s.tcp("out", "PA", 1, 101, b"y" * 200))
    s.send("FIN", "out", s.tcp("out", "FA", 201, 101))
    s.send("half-closed data", "in", s.tcp("in", "PA", 101, 202, b"x" * 10))
    s.send("its ACK", "out", s.tcp("out", "A", 202, 111))
    s.send("other FIN", "in", s.tcp("in", "FA", 111, 202))
    s.send("repeated FIN", "in", s.tcp("in", "FA", 111, 202))
    s.send("last ACK", "out", s.tcp("out", "A", 202, 112))
    s.send("repeated last ACK", "out", s.tcp("out", "A", 202, 112))


def midstream(s):
    for flags in ("A", "PA", "FA", "R", "RA", "SA", "FPU", "", "SF", "SR", "SFRPAU", "F", "P"):
        for side in ("in", "out"):
            s.port += 100
            s.seen = (s.seen[0], s.port)
            s.send(f"[{flags}] from {side}", side, s.tcp(side, flags, 1, 1))


def opened_from_outside(s):
    s.send("SYN", "out", s.tcp("out", "S", 0))
    s.send("SYN/ACK to it", "in", s.tcp("in", "SA", 0, 1))


def repeated_opening(s):
    s.send("SYN", "in", s.tcp("in", "S", 0))
    s.send("SYN again", "in", s.tcp("in", "S", 0))
    s.send("data before the answer", "in", s.tcp("in", "PA", 1, 0, b"x"))
    s.send("SYN/ACK", "out", s.tcp("out", "SA", 0, 1))
    s.send("SYN/ACK again", "out", s.tcp("out", "SA", 0, 1))
    s.send("ACK", "in", s.tcp("in", "A", 1, 1))
    s.send("SYN/ACK late", "out", s.tcp("out", "SA", 0, 1))
    s.send("ACK again", "in", s.tcp("in", "A", 1, 1))
    s.send("data", "out", s.tcp("out", "PA", 1, 1, b"x"))


def wrong_answers_to_a_syn(s):
    s.send("SYN", "in", s.tcp("in", "S", 0))
    s.send("SYN/ACK of another number", "out", s.tcp("out", "SA", 0, 77))
    s.send("RST of another number", "out", s.tcp("out", "RA", 0, 77))
    s.send("ACK without SYN", "out", s.tcp("out", "A", 1, 1))
    s.send("FIN", "out", s.tcp("out", "FA", 1, 1))
    s.send("SYN/ACK", "out", s.tcp("out", "SA", 0, 1))
    s.send("ACK", "in", s.tcp("in", "A", 1, 1))


def refused_opening(s):
    s.send("SYN", "in", s.tcp("in", "S", 0))
    s.send("RST", "out", s.tcp("out", "RA", -5000, 1))
    s.send("SYN anew", "in", s.tcp("in", "S", 9000))
    s.send("SYN/ACK anew", "out", s.tcp("out", "SA", 7000, 9001))
    s.send("ACK anew", "in", s.tcp("in", "A", 9001, 7001))


def resets(s):
    s.opened()
    s.send("data", "in", s.tcp("in", "PA", 1, 1, b"x" * 100))
    s.send("its ACK", "out", s.tcp("out", "A", 1, 101))
    s.send("RST far ahead", "out", s.tcp("out", "R", 100000, 0))
    s.send("RST far behind", "out", s.tcp("out", "R", -100000, 0))
    s.send("RST just behind", "out", s.tcp("out", "R", 0, 0))
    s.send("RST in the window, not exact", "out", s.tcp("out", "R", 10, 0))
    s.send("data after that", "in", s.tcp("in", "PA", 101, 1, b"x" * 100))
    s.send("answer after that", "out", s.tcp("out", "PA", 1, 201, b"x" * 100))
    s.send("its ACK too", "in", s.tcp("in", "A", 201, 101))
    s.send("exact RST", "out", s.tcp("out", "R", 101, 0))


def windows(s):
    s.opened()
    s.send("to its edge", "out", s.tcp("out", "PA", 1, 1, b"y" * 1000))
    s.send("a window ahead", "out", s.tcp("out", "PA", 1 + 8192, 1, b"y" * 1000))
    s.send("far ahead", "out", s.tcp("out", "PA", 100000, 1, b"y" * 1000))
    s.send("far behind", "out", s.tcp("out", "PA", -100000, 1, b"y" * 1000))
    s.send("ACK of 40,000 bytes never sent", "in", s.tcp("in", "A", 1, 50000))
    s.send("ACK of a million never sent", "in", s.tcp("in", "A", 1, 1000000))
    s.send("ACK of long ago", "in", s.tcp("in", "A", 1, -100000))
    s.send("ACK", "in", s.tcp("in", "A", 1, 1001))
    s.send("keep-alive", "in", s.tcp("in", "A", 0, 1001))
    s.send("its ACK", "out", s.tcp("out", "A", 1001, 1))
    s.send("window closes", "in", s.tcp("in", "A", 1, 1001, window=0))
    s.send("probe of a byte", "out", s.tcp("out", "A", 1001, 1, b"y"))
    s.send("window opens", "in", s.tcp("in", "A", 1, 1001))
    s.send("data", "out", s.tcp("out", "PA", 1001, 1, b"y" * 1000))


def scaled_windows(s):
    scale = [("MSS", 1460), ("WScale", 7), ("SAckOK", b"")]
    s.send("SYN", "in", s.tcp("in", "S", 0, options=scale))
    s.send("SYN/ACK", "out", s.tcp("out", "SA", 0, 1, options=scale))
    s.send("ACK", "in", s.tcp("in", "A", 1, 1, window=1000))
    s.send("within 128,000", "out", s.tcp("out", "PA", 100001, 1, b"y" * 1000))
    s.send("beyond", "out", s.tcp("out", "PA", 300001, 1, b"y" * 1000))
    s.send("SACK of it", "in", s.tcp("in", "A", 1, 1, window=1000,
           options=[("NOP", None), ("NOP", None), ("SAck", (5000 + 100001, 5000 + 101001))]))
    s.send("SACK of what was never sent", "in", s.tcp("in", "A", 1, 1, window=1000,
           options=[("NOP", None), ("NOP", None), ("SAck", (5000 + 900001, 5000 + 901001))]))


def scale_of_one_side(s):
    s.send("SYN", "in", s.tcp("in", "S", 0, options=[("WScale", 7)]))
    s.send("SYN/ACK without", "out", s.tcp("out", "SA", 0, 1))
    s.send("ACK", "in", s.tcp("in", "A", 1, 1, window=1000))
    s.send("beyond what is not scaled", "out", s.tcp("out", "PA", 100001, 1, b"y" * 100))
    s.send("within", "out", s.tcp("out", "PA", 1, 1, b"y" * 900))


def much_data(s):
    """Then the very first segment once more."""
    s.opened()
    for i in range(20):
        s.send(f"data {i}", "in", s.tcp("in", "PA", 1 + i * 1000, 1, b"x" * 1000))
        s.send(f"ACK {i}", "out", s.tcp("out", "A", 1, 1001 + i * 1000))
    s.send("the first again", "in", s.tcp("in", "PA", 1, 1, b"x" * 1000))
    s.send("the last again", "in", s.tcp("in", "PA", 19001, 1, b"x" * 1000))
    s.send("the last ACK again", "out", s.tcp("out", "A", 1, 20001))


def syns_in_established(s):
    s.opened()
    s.send("blind SYN from outside", "out", s.tcp("out", "S", 4000))
    s.send("SYN from inside", "in", s.tcp("in", "S", 70000))
    s.send("challenge ACK", "out", s.tcp("out", "A", 1, 1))
    s.send("data", "in", s.tcp("in", "PA", 1, 1, b"x"))
    s.send("answer", "out", s.tcp("out", "PA", 1, 2, b"x"))


def challenge_and_reset(s):
    """The client has forgotten; RFC 5961 and 9293, 3.5.1."""
    s.opened()
    s.send("SYN anew", "in", s.tcp("in", "S", 90000))
    s.send("challenge ACK", "out", s.tcp("out", "A", 1, 1))
    s.send("RST to it", "in", s.tcp("in", "R", 1))
    s.send("SYN again", "in", s.tcp("in", "S", 90000))
    s.send("SYN/ACK", "out", s.tcp("out", "SA", 50000, 90001))
    s.send("ACK", "in", s.tcp("in", "A", 90001, 50001))
    s.send("data", "in", s.tcp("in", "PA", 90001, 50001, b"x"))


def simultaneous_open(s):
    s.send("SYN", "in", s.tcp("in", "S", 0))
    s.send("SYN from outside", "out", s.tcp("out", "S", 0))
    s.send("SYN/ACK", "in", s.tcp("in", "SA", 0, 1))
    s.send("SYN/ACK from outside", "out", s.tcp("out", "SA", 0, 1))
    s.send("data", "in", s.tcp("in", "PA", 1, 1, b"x"))
    s.send("answer", "out", s.tcp("out", "PA", 1, 2, b"x"))


def fast_open(s):
    s.send("SYN with data", "in", s.tcp("in", "S", 0, data=b"x" * 100,
                                        options=[("TFO", (1, 2))]))
    s.send("SYN/ACK", "out", s.tcp("out", "SA", 0, 101))
    s.send("data at once", "out", s.tcp("out", "PA", 1, 101, b"y" * 100))
    s.send("ACK", "in", s.tcp("in", "A", 101, 101))


def split_handshake(s):
    s.send("SYN", "in", s.tcp("in", "S", 0))
    s.send("ACK alone", "out", s.tcp("out", "A", 0, 1))
    s.send("SYN alone", "out", s.tcp("out", "S", 0))
    s.send("SYN/ACK", "in", s.tcp("in", "SA", 0, 1))
    s.send("ACK", "out", s.tcp("out", "A", 1, 1))
    s.send("data", "in", s.tcp("in", "PA", 1, 1, b"x"))


def time_wait_reuse(s):
    s.opened()
    s.send("FIN", "in", s.tcp("in", "FA", 1, 1))
    s.send("FIN/ACK", "out", s.tcp("out", "FA", 1, 2))
    s.send("last ACK", "in", s.tcp("in", "A", 2, 2))
    s.send("SYN of a higher number", "in", s.tcp("in", "S", 100000))
    s.send("SYN/ACK", "out", s.tcp("out", "SA", 200000, 100001))
    s.send("ACK", "in", s.tcp("in", "A", 100001, 200001))
    s.send("data", "out", s.tcp("out", "PA", 200001, 100001, b"x"))


def time_wait_from_outside(s):
    s.opened()
    s.send("FIN", "out", s.tcp("out", "FA", 1, 1))
    s.send("FIN/ACK", "in", s.tcp("in", "FA", 1, 2))
    s.send("last ACK", "out", s.tcp("out", "A", 2, 2))
    s.send("SYN from outside", "out", s.tcp("out", "S", 100000))


def checksums(s):
    s.send("SYN, wrong", "in", s.tcp("in", "S", 0, chksum=1))
    s.send("SYN, IP wrong", "in", s.tcp("in", "S", 0, ip={"chksum": 1}))
    s.send("UDP, wrong", "in", s.udp("in", chksum=1))
    s.send("UDP, none", "in", s.udp("in", chksum=0))
    s.send("its answer", "out", s.udp("out"))
    s.send("echo, wrong", "in", s.ip_of("in") / ICMP(type=8, id=77, chksum=1))
    s.opened()
    s.send("data, wrong", "in", s.tcp("in", "PA", 1, 1, b"x", chksum=1))
    s.send("FIN, wrong", "in", s.tcp("in", "FA", 1, 1, chksum=1))
    s.send("RST, wrong", "out", s.tcp("out", "R", 1, 0, chksum=1))
    s.send("data, right", "in", s.tcp("in", "PA", 1, 1, b"x"))


def lengths(s):
    s.send("offset of less than a header", "in", s.tcp("in", "S", 0, dataofs=4))
    s.send("offset behind the end", "in", s.tcp("in", "S", 0, dataofs=9))
    s.send("UDP longer than it is", "in", s.udp("in", len=100))
    s.send("UDP shorter than a header", "in", s.udp("in", len=7))
    s.send("IP longer than it is", "in", s.udp("in", ip={"len": 200}))
    s.send("TCP cut", "in", s.ip_of("in", proto=6) / Raw(b"\0" * 12))
    s.send("UDP cut", "in", s.ip_of("in", proto=17) / Raw(b"\0" * 4))
    s.send("ICMP cut", "in", s.ip_of("in", proto=1) / Raw(b"\0" * 4))


def datagrams(s):
    s.send("from outside", "out", s.udp("out"))
    s.send("out", "in", s.udp("in"))
    s.send("back", "out", s.udp("out"))
    s.send("back from another port", "out", s.udp("out", sport=81))
    s.send("back from another host", "out", s.udp("out", ip={"src": "192.0.2.2"}))
    s.send("empty", "in", s.udp("in", b""))


def echoes(s):
    def echo(side, kind, number, **more):
        return s.ip_of(side, **more) / ICMP(type=kind, id=s.seen[1] if side == "out" else
                                           s.port, seq=number) / Raw(b"ping")
    s.send("unasked reply", "out", echo("out", 0, 1))
    s.send("request from outside", "out", echo("out", 8, 1))
    got = s.send("request", "in", echo("in", 8, 1))
    s.seen = (got[0].src, got[0][ICMP].id)
    s.send("reply", "out", echo("out", 0, 1))
    s.send("reply again", "out", echo("out", 0, 1))
    s.send("reply from another", "out", echo("out", 0, 1, src="192.0.2.2"))
    s.send("redirect", "out", s.ip_of("out") / ICMP(type=5, code=1) / bytes(s.udp("in"))[:28])
    s.send("timestamp", "in", s.ip_of("in") / ICMP(type=13, id=s.port + 1))
    s.send("router advertisement", "out", s.ip_of("out") / ICMP(type=9))
    s.send("unknown type", "in", s.ip_of("in") / ICMP(type=200))


def errors(s):
    got = s.send("datagram", "in", s.udp("in", b"x" * 100))
    quote = bytes(got[0])
    def error(kind, code, quoted, src="192.0.2.1", **more):
        return s.ip_of("out", src=src) / ICMP(type=kind, code=code, **more) / Raw(quoted)
    s.send("port unreachable", "out", error(3, 3, quote[:28]))
    s.send("the same of more bytes", "out", error(3, 3, quote))
    s.send("from a router", "out", error(11, 0, quote[:28], "192.0.2.5"))
    s.send("fragmentation needed", "out", error(3, 4, quote[:28], "192.0.2.5",
                                                nexthopmtu=1300))
    s.send("quotes 7 bytes of it", "out", error(3, 3, quote[:27]))
    s.send("quotes half a header", "out", error(3, 3, quote[:10]))
    s.send("quotes nothing", "out", error(3, 3, b""))
    s.send("wrong checksum", "out", error(3, 3, quote[:28], chksum=1))
    s.send("quotes an unknown flow", "out", error(3, 3, bytes(
        IP(src=s.seen[0], dst=s.server) / UDP(sport=s.seen[1], dport=9) / Raw(b"x"))))
    s.send("quotes it from the wrong end", "out", error(3, 3, bytes(
        IP(src=s.server, dst=s.seen[0]) / UDP(sport=80, dport=s.seen[1]) / Raw(b"x"))))
    s.send("quotes GRE", "out", error(3, 3, bytes(
        IP(src=s.seen[0], dst=s.server, proto=47) / Raw(b"\0" * 8))))
    s.send("quotes IP in IP", "out", error(3, 3, bytes(
        IP(src=s.seen[0], dst=s.server) / IP(src="1.1.1.1", dst="2.2.2.2"))))
    s.send("quotes an error", "out", error(3, 3, bytes(
        IP(src=s.seen[0], dst=s.server) / ICMP(type=3, code=3)) + quote[:28]))
    s.send("to another", "out", s.ip_of("out", dst="10.0.0.7") /
           ICMP(type=3, code=3) / Raw(quote[:28]))
    s.send("answer after all that", "out", s.udp("out"))
    got = s.send("the answer's error", "in", s.ip_of("in") / ICMP(type=3, code=3) / Raw(
        bytes(IP(src=s.server, dst=s.client) / UDP(sport=80, dport=s.port) / Raw(b"x"))))


def fragments(s):
    s.send("datagram", "in", s.udp("in"))
    s.send("in order", "in", *fragment(s.udp("in", b"x" * 2000, {"id": 1}), 800))
    s.send("backwards", "in", *reversed(fragment(s.udp("in", b"x" * 2000, {"id": 2}), 800)))
    s.send("answer in order", "out", *fragment(s.udp("out", b"x" * 2000, {"id": 3}), 800))
    s.send("answer backwards", "out",
           *reversed(fragment(s.udp("out", b"x" * 2000, {"id": 4}), 800)))
    s.send("the last alone", "in", fragment(s.udp("in", b"x" * 2000, {"id": 5}), 800)[-1])
    s.send("the first alone", "in", fragment(s.udp("in", b"x" * 2000, {"id": 6}), 800)[0])
    a, b, c = fragment(s.udp("in", b"x" * 2000, {"id": 7}), 800)
    s.send("one missing", "in", a, c)
    s.send("unasked, in order", "out", *fragment(
        s.udp("out", b"x" * 2000, {"id": 8}, dport=9), 800))
    tiny = fragment(s.tcp("in", "S", 0, ip={"id": 9}), 8)
    s.send("TCP in fragments of 8", "in", *tiny)
    whole = bytes(s.udp("in", b"x" * 2000, {"id": 10}))[20:]
    def piece(at, until, more):
        return s.ip_of("in", id=10, flags="MF" if more else 0, frag=at // 8,
                       proto=17) / Raw(whole[at:until])
    s.send("before an overlap", "in", piece(0, 808, True))
    s.send("overlapping", "in", piece(400, 1208, True))
    s.send("behind an overlap", "in", piece(1208, 2008, False))


def many_protocols(s):
    for proto in (47, 50, 132, 200):
        s.send(f"{proto} from outside", "out", s.ip_of("out", proto=proto) / Raw(b"\0" * 40))
        s.send(f"{proto}", "in", s.ip_of("in", proto=proto) / Raw(b"\0" * 40))
        s.send(f"{proto} back", "out", s.ip_of("out", proto=proto) / Raw(b"\0" * 40))


def options_of_ip(s):
    s.send("record route", "in", s.udp("in", ip={"options": [IPOption(b"\x07\x07\x04" +
                                                                       b"\0" * 5)]}))
    s.send("answer", "out", s.udp("out"))


def wrap_around(s):
    referee.ISN = {"in": 2**32 - 50, "out": 2**32 - 150}
    try:
        s.opened()
        s.send("data over the wrap", "in", s.tcp("in", "PA", 1, 1, b"x" * 100))
        s.send("ACK", "out", s.tcp("out", "A", 1, 101))
        s.send("answer over the wrap", "out", s.tcp("out", "PA", 1, 101, b"x" * 200))
        s.send("its ACK", "in", s.tcp("in", "A", 101, 201))
        s.send("far ahead", "out", s.tcp("out", "PA", 100000, 101, b"x" * 200))
        s.send("FIN", "in", s.tcp("in", "FA", 101, 201))
        s.send("FIN/ACK", "out", s.tcp("out", "FA", 201, 102))
        s.send("last ACK", "in", s.tcp("in", "A", 102, 202))
    finally:
        referee.ISN = {"in": 1000, "out": 5000}


def ip6_datagrams(s):
    s.send("from outside", "out", s.udp("out"))
    s.send("out", "in", s.udp("in"))
    s.send("back", "out", s.udp("out"))
    s.send("wrong", "in", s.udp("in", chksum=1, sport=s.port + 1))
    s.send("no checksum", "in", s.udp("in", chksum=0, sport=s.port + 2))
    s.send("hop by hop", "in", s.ip_of("in") / IPv6ExtHdrHopByHop() /
           UDP(sport=s.port, dport=80) / Raw(b"x"))
    s.send("destination options", "in", s.ip_of("in") / IPv6ExtHdrDestOpt() /
           UDP(sport=s.port, dport=80) / Raw(b"x"))
    s.send("an atomic fragment", "in", s.ip_of("in") / IPv6ExtHdrFragment(id=1) /
           UDP(sport=s.port, dport=80) / Raw(b"x"))


def ip6_tcp(s):
    s.opened()
    s.send("data", "in", s.tcp("in", "PA", 1, 1, b"x" * 100))
    s.send("far ahead", "out", s.tcp("out", "PA", 100000, 101, b"x" * 200))
    s.send("RST far ahead", "out", s.tcp("out", "R", 100000, 0))
    s.send("RST", "out", s.tcp("out", "R", 1, 0))


def ip6_errors(s):
    got = s.send("datagram", "in", s.udp("in", b"x" * 100))
    quote = bytes(got[0])
    def too_big(quoted, **more):
        return s.ip_of("out") / ICMPv6PacketTooBig(mtu=1300, **more) / Raw(quoted)
    s.send("too big", "out", too_big(quote))
    s.send("too big, wrong", "out", too_big(quote, cksum=1))
    s.send("too big, unknown flow", "out", too_big(bytes(
        IPv6(src=s.client, dst=s.server) / UDP(sport=s.port, dport=9) / Raw(b"x"))))
    s.send("unasked reply", "out", s.ip_of("out") / ICMPv6EchoReply(id=5))
    s.send("request", "in", s.ip_of("in") / ICMPv6EchoRequest(id=5))
    s.send("reply", "out", s.ip_of("out") / ICMPv6EchoReply(id=5))
    s.send("request from outside", "out", s.ip_of("out") / ICMPv6EchoRequest(id=6))


def ip6_fragments(s):
    whole = bytes(s.ip_of("in") / UDP(sport=s.port, dport=80) / Raw(b"x" * 2000))[40:]
    def piece(number, at, until):
        return s.ip_of("in") / IPv6ExtHdrFragment(
            id=number, nh=17, offset=at // 8, m=until < len(whole)) / Raw(whole[at:until])
    s.send("in order", "in", piece(1, 0, 800), piece(1, 800, 1600), piece(1, 1600, 2008))
    s.send("backwards", "in", piece(2, 1600, 2008), piece(2, 800, 1600), piece(2, 0, 800))
    s.send("the last alone", "in", piece(3, 1600, 2008))
    s.send("before an overlap", "in", piece(4, 0, 800))
    s.send("overlapping", "in", piece(4, 400, 1600))
    s.send("behind an overlap", "in", piece(4, 1600, 2008))
    s.send("tiny first", "in", piece(5, 0, 8), piece(5, 8, 1000), piece(5, 1000, 2008))


CASES4 = (handshake_and_close, midstream, opened_from_outside, repeated_opening,
          wrong_answers_to_a_syn, refused_opening, resets, windows, scaled_windows,
          scale_of_one_side, much_data, syns_in_established, challenge_and_reset,
          simultaneous_open, fast_open, split_handshake, time_wait_reuse,
          time_wait_from_outside, checksums, lengths, datagrams, echoes, errors, fragments,
          many_protocols, options_of_ip, wrap_around)
CASES6 = (ip6_datagrams, ip6_tcp, ip6_errors, ip6_fragments)

# Why we pass what Linux refuses, or the other way round.
RECOVERS = "its answer is a RST that clears the way: RFC 9293, 3.5.1"
LAGS = "the record may be 64 KiB behind (tcp_track.h)"
ENDS = "checked where it would make or change state; else its receiver does"
AT_ONCE = "ours go on as they come, Linux waits for all; the receiver never has a whole"
TINY = "the first ends before the flags: RFC 1858"
NUMBERS = "sequence numbers are a firewall's to judge: [firewall, nat] is that"
PORTLESS = "nothing to tell hosts apart by: no ports"

FRAGMENTS_DIFFER = {
    ("fragments", "the first alone"): AT_ONCE,
    ("fragments", "one missing"): AT_ONCE,
    ("fragments", "before an overlap"): AT_ONCE,
    ("fragments", "TCP in fragments of 8"): TINY,
}
FIREWALL_DIFFERS = {
    **FRAGMENTS_DIFFER,
    ("wrong_answers_to_a_syn", "SYN/ACK of another number"): RECOVERS,
    ("windows", "ACK of 40,000 bytes never sent"): LAGS,
    ("checksums", "data, wrong"): ENDS,
    ("echoes", "unknown type"): "ICMP without a state is for the rules to judge",
    ("errors", "quotes 7 bytes of it"): "an error has 8: RFC 792",
}
FIREWALL6_DIFFERS = {
    ("ip6_datagrams", "no checksum"): "UDP in IPv6 has to have one: RFC 8200, 8.1",
    ("ip6_errors", "too big, wrong"): "Packet Too Big always passes: RFC 4890, 4.3.1",
    ("ip6_errors", "too big, unknown flow"): "Packet Too Big always passes: RFC 4890, 4.3.1",
    ("ip6_fragments", "before an overlap"): AT_ONCE,
}
NAT_DIFFERS = {
    **FRAGMENTS_DIFFER,
    **{(case, name): NUMBERS for case, names in {
        "repeated_opening": ["data before the answer"],
        "wrong_answers_to_a_syn": ["SYN/ACK of another number", "RST of another number",
                                   "FIN"],
        "resets": ["RST far ahead", "RST far behind", "RST just behind"],
        "windows": ["far ahead", "ACK of 40,000 bytes never sent",
                    "ACK of a million never sent"],
        "scaled_windows": ["beyond", "SACK of what was never sent"],
        "scale_of_one_side": ["beyond what is not scaled"],
        "syns_in_established": ["blind SYN from outside"],
        "time_wait_from_outside": ["SYN from outside"],
        "wrap_around": ["far ahead"],
    }.items() for name in names},
    ("checksums", "data, wrong"): ENDS,
    **{("many_protocols", f"{protocol}{back}"): PORTLESS
       for protocol in (47, 50, 200) for back in ("", " back")},
}
CHAIN_DIFFERS = {**FIREWALL_DIFFERS, **{step: why for step, why in NAT_DIFFERS.items()
                                        if why == PORTLESS}}
# What the NAT of either refuses.
del CHAIN_DIFFERS["echoes", "unknown type"], CHAIN_DIFFERS["errors", "quotes 7 bytes of it"]


# --- The players -----------------------------------------------------------------------

def played(path, cases, pool=None):
    found = {}
    for number, case in enumerate(cases):
        script = Script(path, number, 6 if case in CASES6 else 4, pool)
        case(script)
        found[case.__name__] = script.verdicts
    return found


def linux(rules, cases, pool=None):
    with Lab() as lab:
        return played(referee.Linux(lab, rules, STRICT), cases, pool)


def ours(text, kind, cases, pool=None):
    return ours_with(text, kind, lambda path: played(path, cases, pool))


def ours_with(text, kind, play, env=None):
    """What play() makes of an instance, or of two sprayed, which may be killed meanwhile.
    'env' is for who has the state: the store, or the instance itself."""
    with Lab() as lab:
        for host in referee.HOST.values():
            lab.host(host)
            lab._quiet(host)
        lab.env = env or {}
        store = None if kind == "embedded" else lab.redis()
        if store:
            lab.env = {}
        config = ('ports: {inside: "af_packet:in0", outside: "af_packet:out0"}\n' + text +
                  f'store: "{store.url if store else "embedded:"}"\n')
        replace = None
        if kind in ("sprayed", "killed"):
            spray = lab.spray()
            lab.link("inside:eth0", "spray:inside")
            lab.link("outside:eth0", "spray:outside")
            devices = lab.counters("spray")
            def start(name):
                return lab.snf(config, name, links=spray.links(name))
            instances = [start(name) for name in "ab"]
            spray.use("a", "b")
            def another(i):
                name = "ab"[i]
                instances[i].kill()
                wait_for(lambda: f"{name}_in" not in devices(), 10, "an end of its devices")
                instances[i] = start(name)
                spray.use("a", "b")
                return instances[i]
            replace = another if kind == "killed" else None
        else:
            instances = [lab.snf(config, links={"in0": "inside:eth0", "out0": "outside:eth0"})]
        for side, host in referee.HOST.items():
            lab.run("ip", "link", "set", "eth0", "address", referee.MAC[side], netns=host)
        return play(referee.Ours(lab, instances, store=store, replace=replace))


def compare(theirs, own, differs):
    """Every difference is in the table, and the table has nothing else."""
    wrong, seen = [], set()
    for case, steps in theirs.items():
        for (name, linux_says), (own_name, we_say) in zip(steps, own[case]):
            assert name == own_name
            if linux_says == we_say:
                continue
            seen.add((case, name))
            if (case, name) not in differs:
                wrong.append(f"{case}, {name}: {linux_says} by Linux, {we_say} by us")
    wrong += [f"{case}, {name}: no difference any more: {differs[case, name]}"
              for case, name in differs if (case, name) not in seen]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.fixture(scope="module")
def filtered():
    if missing_rights():
        pytest.skip(missing_rights())
    return linux(FILTER, CASES4 + CASES6)


settings = pytest.mark.parametrize("kind", ["embedded", "store", "sprayed", "killed"])


@settings
def test_the_firewall_passes_what_linux_passes(filtered, kind):
    """[B11, B14, B28, B29, B30, B31, B32, B34, B35, B39; U3, U17]"""
    own = ours(f"function: firewall\n{FIREWALL_SECTION}", kind, CASES4 + CASES6)
    compare(filtered, own, {**FIREWALL_DIFFERS, **FIREWALL6_DIFFERS})


@pytest.fixture(scope="module")
def translated():
    if missing_rights():
        pytest.skip(missing_rights())
    return linux(FILTER + NAT, CASES4, POOL)


@settings
def test_the_nat_passes_what_linux_passes(translated, kind):
    """[B11, B13, B14, B18, B22; U3, U4, U17] And every packet that leaves is translated, with
    right checksums."""
    own = ours(f"function: nat\n{NAT_SECTION}", kind, CASES4, POOL)
    compare(translated, own, NAT_DIFFERS)


@settings
def test_a_firewall_and_a_nat_pass_what_linux_passes(translated, kind):
    """[B13, B18, B28, B30, B31, B32, B34, B39; U3, U4, U17] The same rules before the NAT."""
    own = ours(f"function: [firewall, nat]\n{FIREWALL_SECTION}{NAT_SECTION}", kind, CASES4,
               POOL)
    compare(translated, own, CHAIN_DIFFERS)
