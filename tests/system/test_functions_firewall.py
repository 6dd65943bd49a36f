"""test_functions_firewall.py - programs that know nothing of the firewall between them: of
two instances on one store each gets every other packet, and one is killed while they run."""
import socket

import pytest

import peers
from lab import missing_rights, wait_for
from peers import INSIDE, OUTSIDE, ROUTER, bound, both_speak, connect

SECTION = """
firewall:
  rules:
    - {action: allow, direction: out}
    - {action: allow, direction: in, protocol: tcp, destination_ports: 8080}
"""

both = pytest.mark.parametrize("ip", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def whole():
    if missing_rights():
        pytest.skip(missing_rights())
    with peers.opened() as net:
        net.use(peers.config(SECTION))
        net.want = peers.web(net, "outside")
        peers.web(net, "inside", port=8080)
        peers.dns(net, "outside")
        peers.ftp(net, "outside", OUTSIDE[4])
        yield net


@pytest.fixture
def net(whole):
    """Two sprayed instances on one store."""
    whole.heal()
    return whole


def test_downloads_survive_a_kill(net):
    """[U3, U4, U8] No download fails, over IPv4 and IPv6, and every byte is right."""
    peers.downloads_survive(net, "outside", "inside", [OUTSIDE[4], OUTSIDE[6]], net.want)


def test_uploads_to_a_server_inside_survive_a_kill(net):
    """[B28; U8] What a rule lets in, in the other direction."""
    peers.downloads_survive(net, "inside", "outside", [INSIDE[4], INSIDE[6]], net.want, 8080)


@pytest.mark.parametrize("streams", ["1", "8"])
def test_iperf3_survives_a_kill(net, streams):
    """[U8] TCP, one stream and many."""
    said = peers.iperf_survives(net, "outside", "inside", OUTSIDE[4], "-P", streams,
                                "-b", f"{80 // int(streams)}M")
    assert said["end"]["sum_received"]["bytes"] > 5_000_000


def test_datagrams_in_fragments_survive_a_kill(net):
    """[B34; U19] UDP of 3,000 bytes, in fragments that go to different instances."""
    peers.datagrams_survive(net, "outside", "inside", OUTSIDE[4])


@both
def test_queries_survive_a_kill(net, ip):
    """[U8] UDP and TCP, answers in fragments."""
    peers.queries_survive(net, "inside", OUTSIDE[ip])


@both
def test_pings_survive_a_kill(net, ip):
    """[U8] Some are lost with the instance, and none later."""
    peers.pings_survive(net, "inside", OUTSIDE[ip])


@both
@pytest.mark.parametrize("how", [(), ("-I",)], ids=["UDP", "ICMP"])
def test_traceroute_sees_the_routers_and_no_more(net, ip, how):
    """[B28] Errors from routers in between are related to what they quote."""
    peers.route_is_seen(net, "inside", OUTSIDE[ip], [ROUTER[ip], OUTSIDE[ip]], *how)


@both
def test_a_sender_learns_the_mtu_of_its_path(net, ip):
    """[B28; U18] The router's errors come through another instance."""
    mtu, _ = peers.upload_finds_mtu(net, "inside", "outside", OUTSIDE[ip], OUTSIDE[ip])
    assert mtu == 1300


def test_passive_ftp_survives_a_kill(net):
    """[U8] Control and data connections are both opened from inside."""
    peers.downloads_survive(net, "outside", "inside", [OUTSIDE[4]], net.want, 2121, "ftp")


def test_a_connection_survives_the_death_of_both_in_turn(net):
    """[U8, U11, U12] As long as there is always one."""
    with bound(net, "outside", OUTSIDE[4], 7200) as server:
        with connect(net, "inside", OUTSIDE[4], 7200) as one, server.accept()[0] as other:
            other.settimeout(peers.PATIENCE_S)
            for name in ("a", "b", "a"):
                both_speak(one, other)
                net.kill(name)
                both_speak(other, one)
                net.start(name)
            both_speak(one, other)


def test_floods_from_outside_do_no_harm(net):
    """[B33; U17, U25] SYNs to an open port from random sources, segments of no connection,
    and ICMP errors that quote nothing known: downloads beside them arrive, and when an
    instance is killed."""
    before = net.counters()["dropped"]
    floods = [peers.flood(net, "outside", *words) for words in (
        ("-S", "-p", "8080", "--rand-source", INSIDE[4]),
        ("-A", "-p", "9", "-s", "80", INSIDE[4]),
        ("-1", "-C", "3", "-K", "1", "--rand-source", INSIDE[4]))]
    wait_for(lambda: net.dropped("state") > before["state"] + 1000, 20, "floods")
    peers.downloads_survive(net, "outside", "inside", [OUTSIDE[4]], net.want)
    assert any(process.alive for process in floods)
    for process in floods:
        process.stop()


def test_a_flood_from_inside_does_not_close_the_door(net):
    """[B33; U25] Hosts inside that are not ours any more: what is established goes on, and
    when it is over others may connect."""
    with bound(net, "outside", OUTSIDE[4], 7300) as server:
        with connect(net, "inside", OUTSIDE[4], 7300) as one, server.accept()[0] as other:
            other.settimeout(peers.PATIENCE_S)
            process = peers.flood(net, "inside", "-S", "-p", "9", "--rand-source", OUTSIDE[4],
                                  count=10000)
            while process.alive:
                both_speak(one, other)
        with connect(net, "inside", OUTSIDE[4], 7300), server.accept()[0]:
            pass


def test_what_was_never_opened_stays_out(net):
    """[B28, B29, B35] Of either side, and it is counted."""
    before = net.counters()["dropped"]
    with bound(net, "inside", INSIDE[4], 0, socket.SOCK_DGRAM) as one:
        with bound(net, "outside", OUTSIDE[4], 0, socket.SOCK_DGRAM) as other:
            other.sendto(b"x", one.getsockname())
        wait_for(lambda: net.dropped("policy") > before["policy"], 5, "a refusal")
        one.settimeout(0)
        with pytest.raises(BlockingIOError):
            one.recv(1)


# --- SYN proxy -------------------------------------------------------------------------

PROXIED = SECTION + "  syn_proxy: always\n"
CROWDED = SECTION + "  syn_proxy: auto\n  limits: {half_open: 100}\n"


@pytest.fixture
def proxied(whole):
    yield from using(whole, PROXIED)


@pytest.fixture
def crowded(whole):
    yield from using(whole, CROWDED)


def using(net, section):
    """Instances with another section, and then those of the others again."""
    net.use(peers.config(section))
    yield net
    net.use(peers.config(SECTION))


@both
def test_connections_through_a_syn_proxy_survive_a_kill(proxied, ip):
    """[B33; U8, U25] Of two sprayed instances one answers the SYN, the other the ACK."""
    peers.downloads_survive(proxied, "inside", "outside", [INSIDE[ip]], proxied.want, 8080)
    proxied.heal()
    peers.downloads_survive(proxied, "outside", "inside", [OUTSIDE[ip]], proxied.want)


def test_a_sender_behind_a_syn_proxy_learns_the_mtu(proxied):
    """[B33; U18] What an error quotes has the other side's numbers."""
    mtu, _ = peers.upload_finds_mtu(proxied, "inside", "outside", OUTSIDE[4], OUTSIDE[4])
    assert mtu == 1300


def test_a_port_that_is_closed_behind_a_syn_proxy_says_so(proxied):
    """[B33] After the handshake, by a reset."""
    with connect(proxied, "inside", OUTSIDE[4], 9) as client:
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_clients_get_in_while_half_open_connections_are_at_their_limit(crowded):
    """[B33; U25] SYNs from random sources: the server sees none beyond the limit, and who
    answers to a cookie is let in, through whichever instance."""
    def half_open():
        return len(crowded.lab.run("ss", "-Htn", "state", "syn-recv",
                                   netns="inside").splitlines())
    before = half_open()
    process = peers.flood(crowded, "outside", "-S", "-p", "8080", "--rand-source", INSIDE[4],
                          count=60000)
    wait_for(lambda: crowded.counters()["received"] > 3000, 20, "a flood")
    for _ in range(10):
        crowded.lab.run("curl", "-q", "-sS", "--fail", "--max-time", "10", "-o", "/dev/null",
                        peers.url(INSIDE[4], "f0", 8080), netns="outside")
    assert process.alive
    process.stop()
    assert half_open() <= before + 100
