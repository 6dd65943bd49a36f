"""test_functions_chain.py - a firewall and a NAT in one instance: the rules are about the
addresses of hosts inside, and servers see those of the NAT.  Two instances on one store get
every other packet, and one is killed while each of the programs runs."""
import socket

import pytest

import peers
from lab import missing_rights, wait_for
from peers import INSIDE, OUTSIDE, ROUTER, both_speak, bound, connect

SECTION = """
firewall:
  rules:
    - {action: deny, direction: out, protocol: tcp, destination_ports: 2525}
    - {action: allow, direction: out}
    - {action: allow, direction: in, protocol: tcp, destination: 10.0.0.1,
       destination_ports: 8080}
nat:
  addresses: [203.0.113.1]
  forwards:
    - {outside: "203.0.113.1:80", inside: "10.0.0.1:8080", protocol: tcp}
    - {outside: "203.0.113.1:81", inside: "10.0.0.1:8081", protocol: tcp}
"""


@pytest.fixture(scope="module")
def whole():
    if missing_rights():
        pytest.skip(missing_rights())
    with peers.opened() as net:
        net.use(peers.config(SECTION, "[firewall, nat]"))
        net.want = peers.web(net, "outside", "location /who { return 200 $remote_addr; }")
        peers.web(net, "inside", port=8080)
        peers.dns(net, "outside")
        yield net


@pytest.fixture
def net(whole):
    """Two sprayed instances on one store."""
    whole.heal()
    return whole


def test_downloads_survive_a_kill(net):
    """[B2, B28; U3, U4, U7, U8]"""
    peers.downloads_survive(net, "outside", "inside", [OUTSIDE[4]], net.want)
    seen = net.lab.run("curl", "-q", "-sS", peers.url(OUTSIDE[4], "who"), netns="inside")
    assert seen == "203.0.113.1"


def test_uploads_through_a_rule_and_a_forwarded_port_survive_a_kill(net):
    """[B26, B28; U8]"""
    peers.downloads_survive(net, "inside", "outside", ["203.0.113.1"], net.want)


def test_iperf3_survives_a_kill(net):
    """[U8]"""
    peers.iperf_survives(net, "outside", "inside", OUTSIDE[4], "-P", "4", "-b", "20M")


def test_datagrams_in_fragments_survive_a_kill(net):
    """[B13, B34; U19]"""
    peers.datagrams_survive(net, "outside", "inside", OUTSIDE[4])


def test_queries_survive_a_kill(net):
    """[U8]"""
    peers.queries_survive(net, "inside", OUTSIDE[4])


def test_pings_survive_a_kill(net):
    """[B17; U8]"""
    peers.pings_survive(net, "inside", OUTSIDE[4])


@pytest.mark.parametrize("how", [(), ("-I",)], ids=["UDP", "ICMP"])
def test_traceroute_sees_the_routers_and_no_more(net, how):
    """[B18, B28] An error is related for the firewall, and translated by the NAT."""
    peers.route_is_seen(net, "inside", OUTSIDE[4], [ROUTER[4], OUTSIDE[4]], *how)


def test_a_sender_learns_the_mtu_of_its_path(net):
    """[B18, B28; U18]"""
    mtu, _ = peers.upload_finds_mtu(net, "inside", "outside", OUTSIDE[4], OUTSIDE[4])
    assert mtu == 1300


def test_each_function_refuses_what_it_has_to(net):
    """[B28, B35] A rule of the firewall's, outwards and inwards, and an address without a
    mapping."""
    before = net.counters()["dropped"]
    def refused(host, to, port):
        done = net.lab.run_raw("nc", "-z", "-w", "1", to, str(port), netns=host)
        return done.returncode == 1
    with bound(net, "outside", OUTSIDE[4], 2525), bound(net, "inside", INSIDE[4], 8081):
        assert refused("inside", OUTSIDE[4], 2525)
        assert refused("outside", "203.0.113.1", 81)
    after = net.counters()["dropped"]
    assert after["policy"] >= before["policy"] + 2
    with bound(net, "outside", OUTSIDE[4], 0, socket.SOCK_DGRAM) as outside:
        outside.sendto(b"x", ("203.0.113.1", 5000))
        wait_for(lambda: sum(net.counters()["dropped"].values()) > sum(after.values()), 5,
                 "a refusal")


def test_a_connection_survives_the_death_of_both_in_turn(net):
    """[U7, U8, U11, U12]"""
    with bound(net, "outside", OUTSIDE[4], 7300) as server:
        with connect(net, "inside", OUTSIDE[4], 7300) as one, server.accept()[0] as other:
            other.settimeout(peers.PATIENCE_S)
            for name in ("a", "b", "a"):
                both_speak(one, other)
                net.kill(name)
                both_speak(other, one)
                net.start(name)
            both_speak(one, other)
