"""test_functions_firewall.py - programs that know nothing of the firewall between them: of
two instances on one store each gets every other packet, and one is killed while they run."""
import socket

import pytest

import peers
from lab import Lab, missing_rights, wait_for
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


# --- A bad line ------------------------------------------------------------------------

NOISE = """
import heapq, random, select, socket, sys, time
chance, due, n = random.Random(1), [], 0
def opened(device):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((device, 0))
    s.setblocking(False)
    return s
a, b = map(opened, ("a0", "b0"))
print("ready", flush=True)
while True:
    wait = max(0, due[0][0] - time.monotonic()) if due else 1
    for s in select.select([a, b], [], [], wait)[0]:
        frame, address = s.recvfrom(65536)
        outgoing = address[2] == 4
        for copy in range(0 if outgoing or chance.random() < .02 else
                          2 if chance.random() < .01 else 1):
            n += 1
            late = chance.random() * .02 if chance.random() < .05 else 0
            heapq.heappush(due, (time.monotonic() + late, n, b if s is a else a, frame))
    while due and due[0][0] <= time.monotonic():
        due[0][2].send(due[0][3])
        heapq.heappop(due)
"""


def test_downloads_over_bad_lines_survive_a_kill():
    """[B30, B32; U3, U8] Segments are lost, doubled and out of order on both sides of two
    sprayed instances, with Fast Open and without."""
    if missing_rights():
        pytest.skip(missing_rights())
    with Lab() as lab:
        lab.host("inside", "10.0.0.1/24", "fd00::1/64")
        lab.host("outside", "10.0.0.2/24", "fd00::2/64")
        spray, store = lab.spray(), lab.redis()
        for host in ("inside", "outside"):
            lab.host(f"noise-{host}")
            lab._quiet(f"noise-{host}")
            lab.link(f"{host}:eth0", f"noise-{host}:a0")
            lab.link(f"noise-{host}:b0", f"spray:{host}")
            lab.run("sysctl", "-qw", "net.ipv4.tcp_fastopen=0x403", netns=host)
            lab.start("noise", ["/usr/bin/python3", "-c", NOISE],
                      f"noise-{host}").wait_log("ready")
        text = peers.config(SECTION).replace("STORE", store.url)
        instances = {name: lab.snf(text, name, links=spray.links(name)) for name in "ab"}
        spray.use("a", "b")
        lab.run("sh", "-c", f"mkdir {lab.ram}/www; head -c 300000 /dev/zero >{lab.ram}/www/f")
        lab.nginx("outside", f"{lab.ram}/www")
        curls = [lab.start("curl", ["curl", "-q", "-sS", "-g", "--fail", "--max-time", "60",
                                    *(["--tcp-fastopen"] if i % 2 else []), "-o", "/dev/null",
                                    peers.url(("10.0.0.2", "fd00::2")[i // 2 % 2], "f")],
                           "inside") for i in range(24)]
        wait_for(lambda: sum(not curl.alive for curl in curls) > 4, 30, "some downloads")
        instances["b"].kill()
        spray.use("a")
        for curl in curls:
            assert curl.wait(60) == 0, curl.log()


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
