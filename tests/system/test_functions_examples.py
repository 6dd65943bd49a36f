"""test_functions_examples.py - every file in examples/: it is right as it is, and an
instance with it does what its comments say to the packets below.

Only what belongs to the place is replaced: ports, the store, and where files are.
"""
import glob
import os
import re

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6

import referee
from lab import BUILD, REPO, Lab, missing_rights

FILES = sorted(glob.glob(f"{REPO}/examples/*.yaml"))
HOST, AWAY, AWAY6 = "10.0.0.7", "198.51.100.9", "2001:db8:99::9"


def syn(src, dst, port, header=IP):
    return header(src=src, dst=dst) / TCP(sport=1234, dport=port, flags="S", seq=1)


def udp(src, dst, port):
    return IP(src=src, dst=dst) / UDP(sport=1234, dport=port) / b"x"


def ping(src, dst):
    return IP(src=src, dst=dst) / ICMP(id=7) / b"x"


# {file: [(side it comes in on, packet, the sources that it may have when it leaves, or
#          None: it does not, its destinations)]}
SAME = object()
PACKETS = {
    "firewall": [("in", syn(HOST, AWAY, 80), SAME, SAME),
                 ("in", syn(HOST, AWAY, 25), None, 0),
                 ("out", syn(AWAY, "192.0.2.10", 443), SAME, SAME)],
    "firewall-edge": [("in", syn(HOST, AWAY, 443), SAME, SAME),
                      ("in", syn(HOST, AWAY, 25), None, 0),
                      ("in", udp(HOST, AWAY, 53), SAME, SAME),
                      ("out", syn(AWAY6, "2001:db8::10", 80, IPv6), SAME, SAME),
                      ("out", ping("198.51.100.3", HOST), SAME, SAME),
                      ("out", ping("203.0.113.3", HOST), None, 0)],
    "firewall-server": [("out", syn(AWAY, "192.0.2.3", 443), SAME, SAME),
                        ("out", syn(AWAY, "192.0.2.3", 22), None, 0),
                        ("out", syn("198.51.100.7", "192.0.2.3", 22), SAME, SAME),
                        ("in", udp("192.0.2.3", AWAY, 53), SAME, SAME),
                        ("in", syn("192.0.2.3", AWAY, 443), None, 0)],
    "firewall-transparent": [("in", syn(HOST, AWAY, 80), SAME, SAME),
                             ("in", syn(HOST, AWAY, 445), None, 0),
                             ("out", syn(AWAY, HOST, 22), SAME, SAME)],
    "nat": [("in", syn(HOST, AWAY, 80), {"203.0.113.1", "203.0.113.2"}, SAME),
            ("out", syn(AWAY, "203.0.113.1", 80), None, 0)],
    "nat-home": [("in", udp("192.168.1.5", AWAY, 80), {"203.0.113.1"}, SAME),
                 ("out", syn(AWAY, "203.0.113.1", 443), SAME, {"192.168.1.10"}),
                 ("out", udp(AWAY, "203.0.113.1", 51820), SAME, {"192.168.1.20"}),
                 ("out", udp(AWAY, "203.0.113.1", 53), None, 0)],
    "nat-cgn": [("in", udp(HOST, AWAY, 53), {f"203.0.113.{i}" for i in range(1, 5)}, SAME),
                ("in", ping(HOST, AWAY), {f"203.0.113.{i}" for i in range(1, 5)}, SAME)],
    "nat-static": [("in", syn(HOST, AWAY, 80), {"203.0.113.1"}, SAME),
                   ("in", syn("10.0.0.10", AWAY, 80), {"203.0.113.10"}, SAME),
                   ("out", syn(AWAY, "203.0.113.11", 22), SAME, {"10.0.0.11"})],
    "lb": [("out", syn(AWAY, "192.0.2.10", 80), SAME,
            {f"10.0.0.{i}" for i in (11, 12, 13)})],
    "lb-web": [("out", syn(AWAY, "192.0.2.10", 443), SAME,
                {f"10.0.0.{i}" for i in (11, 12, 13)}),
               ("out", syn(AWAY6, "2001:db8::10", 443, IPv6), SAME,
                {f"fd00::{i}" for i in (11, 12, 13)}),
               ("out", syn(AWAY, "192.0.2.11", 80), SAME, {"10.0.0.11", "10.0.0.12"})],
    "lb-dns-udp": [("out", udp(AWAY, "192.0.2.53", 53), SAME,
                    {f"10.0.0.{i}" for i in (11, 12, 13)}),
                   ("out", syn(AWAY, "192.0.2.53", 53), SAME,
                    {f"10.0.0.{i}" for i in (11, 12, 13)})],
    "lb-dsr": [("out", syn(AWAY, "192.0.2.20", 443), SAME, SAME),
               ("out", syn(AWAY, "192.0.2.21", 443), {"192.0.2.1"},
                {"198.51.100.11", "198.51.100.12"}),
               ("out", syn(AWAY, "192.0.2.22", 443), {"192.0.2.1"},
                {"198.51.100.21", "198.51.100.22"})],
    "chain": [("in", syn(HOST, AWAY, 80), {"203.0.113.1", "203.0.113.2"}, SAME),
              ("in", syn(HOST, AWAY, 25), None, 0),
              ("out", syn(AWAY, "203.0.113.1", 443), SAME, {"10.0.0.10"})],
    "chain-lb": [("in", syn(HOST, AWAY, 80), {"203.0.113.1"}, SAME),
                 ("out", syn(AWAY, "203.0.113.1", 443), SAME, {"10.0.0.11", "10.0.0.12"}),
                 ("out", syn(AWAY, "203.0.113.1", 80), None, 0)],
    "reassembly": [("in", syn(HOST, AWAY, 80), SAME, SAME)],
    "ips": [("in", syn(HOST, AWAY, 80), SAME, SAME)],
}


def name_of(path):
    return os.path.basename(path)[:-len(".yaml")]


@pytest.fixture(scope="module")
def lab():
    if missing_rights():
        pytest.skip(missing_rights())
    with Lab() as lab:
        yield lab


def test_every_example_is_tried():
    assert {name_of(path) for path in FILES} == set(PACKETS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_example_does_what_it_says(lab, path):
    said = lab.run(f"{BUILD}/snf", "check", path)
    assert "ok" in said
    with open(path) as file:
        text = file.read()
    for old, new in ((r"(?m)^store: .*", 'store: "embedded:"'), ("/var/log", lab.dir),
                     ("af_packet:eth1", "af_packet:in0"), ("af_packet:eth2", "af_packet:out0")):
        text = re.sub(old, new, text)
    hosts = [lab.host(f"{side}-{name_of(path)}") for side in ("in", "out")]
    for host in hosts:
        lab._quiet(host)
    instance = lab.snf(text, name_of(path), links={"in0": f"{hosts[0]}:eth0",
                                                   "out0": f"{hosts[1]}:eth0"})
    wires = referee.Ours(lab, [instance], dict(zip(("in", "out"), hosts)))
    for side, packet, sources, destinations in PACKETS[name_of(path)]:
        got = wires.through(side, [bytes(packet)])
        what = f"{packet.summary()} from {side}"
        assert len(got) == (sources is not None), what
        for one in got:
            assert one.src in ({packet.src} if sources is SAME else sources), what
            assert one.dst in ({packet.dst} if destinations is SAME else destinations), what
            assert not referee.wrong_checksums(one), what
    assert instance.stop() == 0
