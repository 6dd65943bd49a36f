"""test_functions_nat.py - programs behind a NAT, and servers outside that see its addresses:
two instances on one store get every other packet, and one is killed while each runs."""
import json
import re
import socket
import struct

import pytest

import peers
from lab import missing_rights, wait_for
from peers import INSIDE, OUTSIDE, OUTSIDE2, ROUTER, both_speak, bound, connect

POOL = ("203.0.113.1", "203.0.113.2")
SECTION = """
nat:
  addresses: [203.0.113.1, 203.0.113.2]
  forwards:
    - {outside: "203.0.113.1:8080", inside: "10.0.0.1:8080", protocol: tcp}
  static:
    - {inside: 10.0.0.11, outside: 203.0.113.11}
"""
ALL = "nat: {addresses: [203.0.113.1], mapping: MAPPING, filtering: FILTERING}\n"


@pytest.fixture(scope="module")
def whole():
    if missing_rights():
        pytest.skip(missing_rights())
    with peers.opened() as net:
        net.want = peers.web(net, "outside", "location /who { return 200 $remote_addr; }")
        peers.web(net, "inside", "location /who { return 200 $remote_addr; }", port=8080)
        peers.dns(net, "outside")
        peers.ftp(net, "outside", OUTSIDE[4])
        yield net


@pytest.fixture
def net(whole):
    """Two sprayed instances on one store."""
    if whole.text is None or SECTION not in whole.text:
        whole.use(peers.config(SECTION, "nat"))
    whole.heal()
    return whole


def curl(net, host, *words):
    return net.lab.run("curl", "-q", "-sS", "--fail", "--max-time", "10", *words, netns=host)


def test_hosts_are_seen_under_one_address_each(net):
    """[B2; case 1] And not under their own."""
    for source in ("10.0.0.1", "10.0.0.2"):
        seen = {curl(net, "inside", "--interface", source, peers.url(OUTSIDE[4], "who"))
                for _ in range(5)}
        assert len(seen) == 1 and seen <= set(POOL)


def test_downloads_survive_a_kill(net):
    """[B22; U4, U7, U8, U10] No download fails, and every byte is right."""
    peers.downloads_survive(net, "outside", "inside", [OUTSIDE[4]], net.want)


def test_uploads_to_a_forwarded_port_survive_a_kill(net):
    """[B26; case 7; U7]"""
    peers.downloads_survive(net, "inside", "outside", ["203.0.113.1"], net.want, 8080)


def test_a_static_address_works_both_ways(net):
    """[B26] And it is its host's alone."""
    assert curl(net, "inside", "--interface", "10.0.0.11",
                peers.url(OUTSIDE[4], "who")) == "203.0.113.11"
    assert curl(net, "outside", peers.url("203.0.113.11", "who", 8080)) == OUTSIDE[4]


@pytest.mark.parametrize("streams", ["1", "8"])
def test_iperf3_survives_a_kill(net, streams):
    """[U7, U8, U10] TCP, one stream and many."""
    said = peers.iperf_survives(net, "outside", "inside", OUTSIDE[4], "-P", streams,
                                "-b", f"{80 // int(streams)}M")
    assert said["end"]["sum_received"]["bytes"] > 5_000_000


def test_datagrams_in_fragments_survive_a_kill(net):
    """[B13; case 23; U19] UDP of 3,000 bytes, in fragments that go to different instances."""
    peers.datagrams_survive(net, "outside", "inside", OUTSIDE[4])


def test_queries_survive_a_kill(net):
    """[U8] UDP and TCP, answers in fragments."""
    peers.queries_survive(net, "inside", OUTSIDE[4])


def test_pings_survive_a_kill(net):
    """[B17; U8] Some are lost with the instance, and none later."""
    peers.pings_survive(net, "inside", OUTSIDE[4])


def test_many_pings_do_not_mix(net):
    """[B17; case 9] Of several hosts, with identifiers of their own."""
    pings = [net.lab.start(f"ping-{i}", ["ping", "-q", "-c", "20", "-i", "0.01", "-I",
                                         f"10.0.0.{1 + i % 2}", OUTSIDE[4]], "inside")
             for i in range(8)]
    for ping in pings:
        assert ping.wait(20) == 0 and "20 received" in ping.log(), ping.log()
        assert "DUP" not in ping.log()


@pytest.mark.parametrize("how", [(), ("-I",), ("-T", "-p", "80")], ids=["UDP", "ICMP", "TCP"])
def test_traceroute_sees_the_routers_and_no_more(net, how):
    """[B18; case 19; U17] Errors find the host whose packet they quote."""
    peers.route_is_seen(net, "inside", OUTSIDE[4], [ROUTER[4], OUTSIDE[4]], *how)


def test_a_closed_port_says_so_by_an_icmp_error(net):
    """[B18; case 17]"""
    with bound(net, "inside", INSIDE[4], 0, socket.SOCK_DGRAM) as client:
        client.connect((OUTSIDE[4], 9))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)


def test_a_sender_learns_the_mtu_of_its_path(net):
    """[B18; case 19; U18] The router's error quotes the outside address, and comes through
    another instance than the segment went."""
    mtu, _ = peers.upload_finds_mtu(net, "inside", "outside", OUTSIDE[4], OUTSIDE[4])
    assert mtu == 1300


def test_a_server_behind_a_forwarded_port_learns_the_mtu(net):
    """[B18; U18] In the other direction."""
    text = bytes(300_000)
    with net.narrow(1300), bound(net, "inside", "10.0.0.11", 7100) as server:
        with connect(net, "outside", "203.0.113.11", 7100) as client, \
                server.accept()[0] as accepted:
            client.settimeout(peers.PATIENCE_S)
            peers.transfer(accepted, client, text)
            assert accepted.getsockopt(socket.SOL_IP, 14) == 1300       # IP_MTU


def test_passive_ftp_survives_a_kill(net):
    """[B24; U8] Without an ALG."""
    peers.downloads_survive(net, "outside", "inside", [OUTSIDE[4]], net.want, 2121, "ftp")


def test_hosts_inside_reach_each_other_by_outside_addresses(net):
    """[B9; U20] A hairpin: the server sees an outside address."""
    seen = curl(net, "inside", "--interface", "10.0.0.2",
                peers.url("203.0.113.1", "who", 8080))
    assert seen in POOL


def test_datagrams_turn_as_well(net):
    """[B9] From one mapping to another, both ways."""
    with bound(net, "inside", "10.0.0.1", 0, socket.SOCK_DGRAM) as one, \
            bound(net, "inside", "10.0.0.2", 0, socket.SOCK_DGRAM) as other, \
            bound(net, "outside", OUTSIDE[4], 7200, socket.SOCK_DGRAM) as server:
        ends = []
        for client in (one, other):
            client.sendto(b"x", (OUTSIDE[4], 7200))
            ends.append(server.recvfrom(10)[1])
        assert {ip for ip, _ in ends} <= set(POOL)
        # Only who was sent to may answer; the second may have overtaken the first.
        one.sendto(b"first", ends[1])
        one.settimeout(0.2)
        def answered():
            other.sendto(b"second", ends[0])
            try:
                return one.recvfrom(10) == (b"second", ends[1])
            except TimeoutError:
                return False
        wait_for(answered, 10, "an answer")


@pytest.mark.parametrize("host", ["inside", "outside"])
def test_outside_addresses_answer_pings(net, host):
    """[B9, B49] Once, whichever instance is asked; that of a host alone is its own to answer."""
    for address in (*POOL, "203.0.113.11"):
        said = net.lab.run("ping", "-q", "-c", "10", "-i", "0.01", address, netns=host)
        assert "10 received" in said and "duplicates" not in said, said


def test_a_connection_survives_the_death_of_both_in_turn(net):
    """[U7, U8, U11, U12] As long as there is always one."""
    with bound(net, "outside", OUTSIDE[4], 7300) as server:
        with connect(net, "inside", OUTSIDE[4], 7300) as one, server.accept()[0] as other:
            for name in ("a", "b", "a"):
                both_speak(one, other)
                net.kill(name)
                both_speak(other, one)
                net.start(name)
            both_speak(one, other)


def test_rules_come_and_go_and_open_flows_stay(net):
    """[B26; U11] SIGHUP of both."""
    with bound(net, "outside", OUTSIDE[4], 7400) as server, \
            bound(net, "inside", "10.0.0.2", 7500) as late:
        with connect(net, "inside", OUTSIDE[4], 7400) as one, server.accept()[0] as other:
            more = SECTION.replace("  static:", '    - {outside: "203.0.113.2:7500",'
                                   ' inside: "10.0.0.2:7500"}\n  static:')
            net.reload(peers.config(more, "nat"))
            with connect(net, "outside", "203.0.113.2", 7500), late.accept()[0]:
                both_speak(one, other)
            net.reload(peers.config(SECTION, "nat"))
            both_speak(one, other)
            with bound(net, "outside", OUTSIDE[4]) as client:
                client.settimeout(0.5)
                with pytest.raises(OSError):
                    client.connect(("203.0.113.2", 7500))


def test_floods_from_outside_do_no_harm(net):
    """[B5, B18; U14, U17, U25] SYNs, segments and ICMP errors to the outside addresses, from
    random sources: downloads beside them arrive, and when an instance is killed."""
    before = net.counters()["dropped"]
    floods = [peers.flood(net, "outside", *words) for words in (
        ("-S", "-p", "++1024", "--rand-source", POOL[0]),
        ("-A", "-p", "++1024", "-s", "80", POOL[0]),
        ("-2", "-p", "++1024", "--rand-source", POOL[0]),
        ("-1", "-C", "3", "-K", "1", "--rand-source", POOL[0]))]
    wait_for(lambda: net.dropped("state") > before["state"] + 1000, 20, "floods")
    peers.downloads_survive(net, "outside", "inside", [OUTSIDE[4]], net.want)
    assert any(process.alive for process in floods)
    for process in floods:
        process.stop()


def test_a_host_that_takes_all_it_can_takes_nobody_else_s(net):
    """[B10, B19; U13, U14] It gets as many ports as its limit says; its connections and
    those of others live, and what does not get one is refused, counted, and not forwarded."""
    net.use(peers.config("nat: {addresses: [203.0.113.1], limits: {ports: 200}}\n", "nat"))
    with bound(net, "outside", OUTSIDE[4], 7600) as server:
        with connect(net, "inside", OUTSIDE[4], 7600, "10.0.0.2") as one, \
                server.accept()[0] as other:
            seen = bound(net, "outside", OUTSIDE[4], 7601, socket.SOCK_DGRAM)
            hungry = [bound(net, "inside", "10.0.0.1", 0, socket.SOCK_DGRAM)
                      for _ in range(300)]
            for client in hungry:
                client.sendto(b"x", (OUTSIDE[4], 7601))
            wait_for(lambda: sum(net.counters()["dropped"][why] for why in
                                 ("limit", "ports")) >= 100, 10, "refusals")
            seen.settimeout(0.5)
            ends = set()
            with pytest.raises(TimeoutError):
                while True:
                    ends.add(seen.recvfrom(10)[1])
            assert len(ends) == 200 and {ip for ip, _ in ends} == {"203.0.113.1"}
            both_speak(one, other)
            with connect(net, "inside", OUTSIDE[4], 7600, "10.0.0.2"), server.accept()[0]:
                pass
            for client in (*hungry, seen):
                client.close()


def test_the_pool_is_on_the_link_if_the_nat_has_a_mac_address(net):
    """[B49; U7] Whoever is asked for an outside address answers, and always the same."""
    net.use(peers.config('nat: {addresses: [203.0.113.1], mac: "02:00:5e:00:00:01"}\n', "nat"))
    net.sh("router", "ip route replace 203.0.113.0/24 dev eth0", "ip neigh flush dev eth0")
    try:
        for _ in range(4):      # In turn by one and the other.
            assert curl(net, "inside", peers.url(OUTSIDE[4], "who")) == "203.0.113.1"
            said = net.lab.run("ip", "neigh", "show", "203.0.113.1", netns="router")
            assert "02:00:5e:00:00:01" in said, said
            net.sh("router", "ip neigh del 203.0.113.1 dev eth0")
    finally:
        net.sh("router", f"ip route replace 203.0.113.0/24 via {INSIDE[4]}")


KINDS = {"endpoint_independent": "Endpoint Independent", "address": "Address Dependent",
         "address_and_port": "Address and Port Dependent",
         "endpoint_dependent": "Address and Port Dependent"}


@pytest.mark.parametrize("mapping, filtering", [
    ("endpoint_independent", "endpoint_independent"), ("endpoint_independent", "address"),
    ("endpoint_independent", "address_and_port"), ("endpoint_dependent", "address_and_port")])
def test_a_stun_client_finds_what_is_configured(net, mapping, filtering):
    """[B1, B8, B10; case 11; U20] coturn's own client and server, RFC 5780."""
    net.use(peers.config(ALL.replace("MAPPING", mapping).replace("FILTERING", filtering),
                         "nat"))
    stun(net)
    said = net.lab.run("turnutils_natdiscovery", "-m", "-f", OUTSIDE[4], netns="inside")
    found = re.findall(r"NAT with (.*?) (Mapping|Filtering)", said)
    assert (KINDS[mapping], "Mapping") in found, said
    assert (KINDS[filtering], "Filtering") in found, said


def test_a_stun_client_finds_that_hairpins_work(net):
    """[B9; case 15] And payload is as it was: both forms of the address agree."""
    stun(net)
    said = net.lab.run("turnutils_natdiscovery", "-H", OUTSIDE[4], netns="inside")
    assert re.search(r"(?i)hairpin", said) and "not" not in said.lower(), said


def stun(net):
    """coturn's server, on two addresses and two ports."""
    if any(process.name == "stun" and process.alive for process in net.lab.processes):
        return
    net.lab.start("stun", ["turnserver", "-n", "--stun-only", "--no-tls", "--no-dtls",
                           "--no-cli", "-L", OUTSIDE[4], "-L", OUTSIDE2[4], "--log-file",
                           "stdout", "--pidfile", f"{net.lab.dir}/stun.pid"], "outside")
    # A binding request, until there is an answer: it binds its ports before it reads them.
    request = struct.pack("!HHL12s", 1, 0, 0x2112a442, b"is it there?")
    with bound(net, "outside", OUTSIDE[4], 0, socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        def answers(where):
            client.sendto(request, where)
            try:
                return client.recvfrom(1000)[1] == where
            except TimeoutError:
                return False
        for ip in (OUTSIDE[4], OUTSIDE2[4]):
            for port in (3478, 3479):
                wait_for(lambda: answers((ip, port)), 20, "a STUN server")


def test_mappings_are_logged_once_though_two_make_them_and_one_is_killed(net):
    """[B21; U20] A line for each that is made, by whoever made it, and never two.  Lines are
    written a moment later, in which a kill would lose them."""
    path = f"{net.lab.dir}/events"
    net.use(peers.config("nat: {addresses: [203.0.113.1], log: mappings}\n", "nat",
                         f'events: "{path}"\n'))
    ends = []
    def made():
        with open(path) as file:
            lines = [json.loads(line)["mapping"] for line in file]
        return [(line["dest_ip"], line["dest_port"]) for line in lines]
    def outside_of(client):
        """Where it is seen: it asks until there is an answer."""
        client.settimeout(0.2)
        while True:
            client.sendto(b"x", (OUTSIDE[4], 7700))
            try:
                server.settimeout(0.2)
                return server.recvfrom(10)[1]
            except TimeoutError:
                continue
    with bound(net, "outside", OUTSIDE[4], 7700, socket.SOCK_DGRAM) as server:
        clients = [bound(net, "inside", INSIDE[4], 0, socket.SOCK_DGRAM) for _ in range(60)]
        for i, client in enumerate(clients):
            if i == 30:
                wait_for(lambda: sorted(made()) == sorted(ends), 10, "lines")
                net.kill()
            ends.append(outside_of(client))
    wait_for(lambda: len(made()) >= 60, 10, "a line for each")
    assert sorted(made()) == sorted(ends)
    for client in clients:
        client.close()
