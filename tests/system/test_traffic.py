"""test_traffic.py - real clients and servers with a firewall between them that they do
not know of: in one instance, and in two that get every other packet (U3, U4); while
instances come, go and are killed, the store too, and the rules change.
"""
import hashlib
import json
import re
import select
import signal
import socket
import struct
from types import SimpleNamespace

import pytest

import telemetry
from lab import Lab, missing_rights, wait_for

HOSTS = {"client": ("10.0.0.1/24", "fd00::1/64"), "server": ("10.0.0.2/24", "fd00::2/64")}
CLIENT = {4: "10.0.0.1", 6: "fd00::1"}
SERVER = {4: "10.0.0.2", 6: "fd00::2"}
FILE_BYTES = 2_000_000
PATIENCE_S = 20     # Of clients.  TCP's own repeats are through long before.


def config(store, rules=""):
    return (f'function: firewall\nstore: "{store}"\n'
            "ports: {inside: \"af_packet:in0\", outside: \"af_packet:out0\"}\n"
            f"firewall:\n  rules: [{rules}]\n")


# --- Networks --------------------------------------------------------------------------

def hosts(lab):
    for name, addresses in HOSTS.items():
        lab.host(name, *addresses)


def direct(lab, store, rules=""):
    """client - instance "a" - server"""
    hosts(lab)
    return lab.snf(config(store, rules), "a",
                   links={"in0": "client:eth0", "out0": "server:eth0"})


def sprayed(lab):
    """client - spray - server, instances beside it"""
    hosts(lab)
    spray = lab.spray()
    lab.link("client:eth0", "spray:inside")
    lab.link("server:eth0", "spray:outside")
    return spray


def instance(lab, spray, store, name):
    return lab.snf(config(store), name, links=spray.links(name))


def listens(lab, host, port, kind="t"):
    wait_for(lambda: f":{port} " in lab.run("ss", f"-Hln{kind}", netns=host), 10,
             f"port {port} of {host}")


def web(lab, n_files=1):
    """Serves files of random bytes: 'f0' and on."""
    lab.run("mkdir", f"{lab.ram}/www", f"{lab.ram}/got")
    for i in range(n_files):
        lab.run("sh", "-c", f"head -c {FILE_BYTES} /dev/urandom >{lab.ram}/www/f{i}")
    lab.nginx("server", f"{lab.ram}/www")


def checksums(lab, folder):
    text = lab.run("sh", "-c", f"cd {lab.ram}/{folder} && sha256sum *")
    return {name: checksum for checksum, name in map(str.split, text.splitlines())}


def url(ip, name=""):
    return f"http://[{SERVER[ip]}]/{name}" if ip == 6 else f"http://{SERVER[ip]}/{name}"


def connect(lab, ip, port):
    """A TCP connection of the client's to the server."""
    client = lab.inside("client", lambda: socket.create_connection((SERVER[ip], port),
                                                                   PATIENCE_S))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def bound(lab, host, address, port, kind=socket.SOCK_STREAM):
    """A socket of a host's, listening if it can."""
    def make():
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        made.settimeout(PATIENCE_S)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made
    return lab.inside(host, make)


class Download:
    """One whose reader decides how far it gets: TCP's window stops the server."""

    def __init__(self, lab, ip, name="f0"):
        self.socket = connect(lab, ip, 80)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.socket.sendall(f"GET /{name} HTTP/1.0\r\n\r\n".encode())
        self.file = self.socket.makefile("rb")
        while self.file.readline() != b"\r\n":
            pass
        self.hash, self.left = hashlib.sha256(), FILE_BYTES

    def read(self, n_bytes):
        data = self.file.read(min(n_bytes, self.left))
        self.left -= len(data)
        self.hash.update(data)
        return len(data)

    def finish(self):
        """Reads the rest; the checksum of the whole."""
        while self.left > 0 and self.read(65536) > 0:
            pass
        self.socket.close()
        return self.hash.hexdigest() if self.left == 0 else f"{self.left} bytes missing"


def counters(process):
    t = telemetry.of_process(process)
    try:
        return t.stats()
    finally:
        t.close()


def final(process):
    """The counters that an instance logs at its end."""
    log = process.log()
    line = re.search(r"received (\d+), sent (\d+), kept (\d+), emitted (\d+)", log)
    dropped = {reason: int(n) for n, reason in re.findall(r"dropped (\d+), reason (\w+)", log)}
    received, sent, kept, emitted = map(int, line.groups())
    return SimpleNamespace(received=received, sent=sent, kept=kept, emitted=emitted,
                           dropped=dropped)


# --- Clients that know nothing of it ---------------------------------------------------

@pytest.fixture(scope="module", params=["embedded", "store", "two sprayed"])
def net(request):
    """A network with servers, through one instance or through two that alternate."""
    why = missing_rights()
    if why is not None:
        pytest.skip(why)
    with Lab() as lab:
        if request.param == "embedded":
            instances = [direct(lab, "embedded:")]
        elif request.param == "store":
            instances = [direct(lab, lab.redis().url)]
        else:
            spray, store = sprayed(lab), lab.redis().url
            instances = [instance(lab, spray, store, name) for name in "ab"]
            spray.use("a", "b")
        web(lab, 4)
        lab.start("dns", ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
                          "--no-resolv", "--no-hosts", "--host-record=a.test,192.0.2.7",
                          "--txt-record=long.test," + ",".join(200 * "x" for _ in range(5))],
                  "server")
        listens(lab, "server", 53, "u")
        yield SimpleNamespace(lab=lab, instances=instances, name=request.param)


both = pytest.mark.parametrize("ip", [4, 6], ids=["IPv4", "IPv6"])


def dropped(net, reason):
    return sum(counters(process)["dropped"][reason] for process in net.instances)


@both
def test_downloads_arrive_whole(net, ip):
    want = checksums(net.lab, "www")
    words = []
    for name in want:
        words += ["-o", f"{net.lab.ram}/got/{name}", url(ip, name)]
    net.lab.run("curl", "-q", "-sS", "-g", "--fail", "--parallel", "--parallel-immediate",
                "--max-time", "30", *words, netns="client")
    assert checksums(net.lab, "got") == want


@both
def test_an_upload_arrives(net, ip):
    with bound(net.lab, "server", SERVER[ip], 7000) as server:
        with connect(net.lab, ip, 7000) as client, server.accept()[0] as accepted:
            text = bytes(range(256)) * 2000
            accepted.settimeout(PATIENCE_S)
            client.settimeout(0)
            sent, got = 0, b""
            while len(got) < len(text):
                readable, writable, _ = select.select(
                    [accepted], [client] if sent < len(text) else [], [], PATIENCE_S)
                assert readable or writable, f"stuck after {len(got)} bytes"
                if writable:
                    sent += client.send(text[sent:])
                if readable:
                    got += accepted.recv(1 << 20)
            assert got == text


@both
def test_netcat_says_hello(net, ip):
    server = net.lab.start("nc", ["nc", "-l", SERVER[ip], "7001"], "server")
    listens(net.lab, "server", 7001)
    net.lab.run("nc", "-N", SERVER[ip], "7001", netns="client", stdin=f"hello IPv{ip}\n")
    assert server.wait() == 0 and f"hello IPv{ip}" in server.log()


@both
def test_dns_is_answered_over_udp_and_tcp(net, ip):
    def dig(*words):
        return net.lab.run("dig", f"@{SERVER[ip]}", "+short", "+tries=1", "+time=5", *words,
                           netns="client")
    for transport in ("+notcp", "+tcp"):
        assert dig(transport, "a.test", "A") == "192.0.2.7\n"
        assert dig(transport, "+bufsize=1400", "long.test", "TXT").count(200 * "x") == 5


@both
def test_pings_all_come_back(net, ip):
    for _ in range(2):
        said = net.lab.run("ping", "-q", "-c", "40", "-i", "0.01", "-W", "5", SERVER[ip],
                           netns="client")
        assert "40 received" in said, said
        # Refused, but a packet: in the second round answers go the other way than before.
        with bound(net.lab, "server", SERVER[ip], 0, socket.SOCK_DGRAM) as server:
            server.sendto(b"", (CLIENT[ip], 9))


@both
@pytest.mark.parametrize("direction", ["up", "down"])
def test_iperf3_gets_through(net, ip, direction):
    server = net.lab.start("iperf3", ["iperf3", "--server", "--one-off"], "server")
    listens(net.lab, "server", 5201)
    said = net.lab.run("iperf3", "-c", SERVER[ip], "-n", "4M", "-J",
                       *(["--reverse"] if direction == "down" else []), netns="client")
    # The client's word; the receiver does not wait for the last of it.
    assert json.loads(said)["end"]["sum_received"]["bytes"] > 1_000_000, said
    assert server.wait() == 0


@both
def test_a_closed_tcp_port_says_so_at_once(net, ip):
    with pytest.raises(ConnectionRefusedError):
        connect(net.lab, ip, 9)


@both
def test_a_closed_udp_port_says_so_by_an_icmp_error(net, ip):
    """B28: the error is related to a known flow."""
    with bound(net.lab, "client", CLIENT[ip], 0, socket.SOCK_DGRAM) as client:
        client.connect((SERVER[ip], 9))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)


@both
def test_what_is_opened_from_outside_is_refused_and_counted(net, ip):
    """B35 and default deny: nothing of it is ever seen inside."""
    before = dropped(net, "policy")
    with bound(net.lab, "client", CLIENT[ip], 0) as inside:
        port = inside.getsockname()[1]
        done = net.lab.run_raw("nc", "-z", "-w", "1", CLIENT[ip], str(port), netns="server")
        assert done.returncode == 1
        inside.settimeout(0)
        with pytest.raises(BlockingIOError):
            inside.accept()
    with bound(net.lab, "client", CLIENT[ip], 0, socket.SOCK_DGRAM) as inside:
        with bound(net.lab, "server", SERVER[ip], 0, socket.SOCK_DGRAM) as outside:
            outside.sendto(b"x", (CLIENT[ip], inside.getsockname()[1]))
            said = net.lab.run_raw("ping", "-q", "-c", "1", "-W", "1", CLIENT[ip],
                                   netns="server").stdout
            assert "0 received" in said
        inside.settimeout(0)
        with pytest.raises(BlockingIOError):
            inside.recv(1)
    assert dropped(net, "policy") - before >= 3     # A SYN or two, a datagram, an echo.


@both
def test_a_segment_of_no_connection_is_dropped_and_counted(net, ip):
    """B29: connections are never picked up midstream, not even from inside."""
    before = dropped(net, "state")
    ack = struct.pack("!HHIIBBHHH", 7777, 80, 1000, 1000, 5 << 4, 0x10, 1000, 0, 0)
    family = socket.AF_INET6 if ip == 6 else socket.AF_INET
    def send():
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
            raw.sendto(ack, (SERVER[ip], 0))
    net.lab.inside("client", send)
    wait_for(lambda: dropped(net, "state") > before, 5, "a drop for its state")


def test_nothing_else_was_dropped(net):
    """Of all of the above.  Two instances have had the same share of it (U4)."""
    stats = [counters(process) for process in net.instances]
    for s in stats:
        lost = {reason: n for reason, n in s["dropped"].items() if n > 0}
        assert set(lost) <= {"policy", "state"}, lost
        wait_for(lambda: telemetry.settled(s) == s["received"], 5, "an end of it")
    if len(stats) == 2:
        assert 0.8 < stats[0]["received"] / stats[1]["received"] < 1.25


def test_sprayed_over_instances_that_share_nothing_a_transfer_breaks(lab):
    """That what is shown above is no gift of the test's."""
    spray = sprayed(lab)
    for name in "ab":
        instance(lab, spray, "embedded:", name)
    spray.use("a", "b")
    web(lab)
    done = lab.run_raw("curl", "-q", "-sS", "--max-time", "3", "-o", "/dev/null", url(4, "f0"),
                       netns="client")
    assert done.returncode != 0


# --- Instances that come and go --------------------------------------------------------

@pytest.mark.parametrize("use", ["b", "ab"], ids=["all of it", "every other packet"])
def test_an_instance_started_in_mid_transfer_serves_its_next_packet(lab, use):
    """U1, U12: the new one takes over, and the old one may go."""
    spray, store = sprayed(lab), lab.redis()
    a = instance(lab, spray, store.url, "a")
    spray.use("a")
    web(lab)
    downloads = [Download(lab, ip) for ip in (4, 4, 6, 6)]
    for download in downloads:
        assert download.read(FILE_BYTES // 4) > 0
    b = instance(lab, spray, store.url, "b")
    spray.use(*use)
    for download in downloads:
        assert download.read(FILE_BYTES // 4) > 0
    spray.use("b")
    assert a.stop() == 0
    want = checksums(lab, "www")["f0"]
    assert [download.finish() for download in downloads] == 4 * [want]
    assert counters(b)["dropped"]["state"] == 0


def test_an_instance_killed_during_downloads_fails_none(lab):
    """The packets that were in it are sent again; nothing else is missing."""
    spray, store = sprayed(lab), lab.redis()
    a, b = [instance(lab, spray, store.url, name) for name in "ab"]
    spray.use("a", "b")
    web(lab, 8)
    lab.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "100mbit",
            "burst", "16k", "limit", "4m", netns="server")     # 1.3 s for all of it.
    want = checksums(lab, "www")
    words = []
    for i, name in enumerate(want):
        words += ["-o", f"{lab.ram}/got/{name}", url(4 if i % 2 else 6, name)]
    arrived = lab.counters("client")
    curl = lab.start("curl", ["curl", "-q", "-sS", "-g", "--fail", "--parallel",
                              "--parallel-immediate", "--max-time", "30", *words], "client")
    wait_for(lambda: arrived()["eth0"][2] > 0.3 * 8 * FILE_BYTES, 20, "the downloads")
    a.kill(signal.SIGKILL)
    spray.use("b")
    assert arrived()["eth0"][2] < 8 * FILE_BYTES, "killed too late to mean anything"
    assert curl.wait(40) == 0, curl.log()
    assert checksums(lab, "got") == want
    assert set(reason for reason, n in counters(b)["dropped"].items() if n) <= {"state"}


def test_an_instance_told_to_stop_finishes_what_it_took(lab):
    """SIGTERM: every packet received has left or is counted, and it says so."""
    spray, store = sprayed(lab), lab.redis()
    a = instance(lab, spray, store.url, "a")
    spray.use("a")
    seen = [lab.counters(host) for host in HOSTS]
    before = sum(read()["eth0"][0] for read in seen)
    handed_on = counters(a)["sent"]
    ping = lab.start("ping", ["ping", "-f", "-q", "-c", "100000", SERVER[4]], "client")
    wait_for(lambda: counters(a)["sent"] > 2000, 20, "a flood")
    a.kill(signal.SIGTERM)
    assert a.wait() == 0
    ping.stop()
    f = final(a)
    assert f.received == f.sent + sum(f.dropped.values()) and f.sent > 2000
    assert sum(read()["eth0"][0] for read in seen) - before == f.sent - handed_on


def test_an_instance_drained_before_it_stops_loses_nothing(lab):
    """U12: an upgrade, as an orchestrator does it."""
    spray, store = sprayed(lab), lab.redis()
    old = instance(lab, spray, store.url, "a")
    spray.use("a")
    ping = lab.start("ping", ["ping", "-q", "-i", "0.002", "-c", "1000", SERVER[4]], "client")
    wait_for(lambda: counters(old)["sent"] > 200, 20, "pings")
    instance(lab, spray, store.url, "b")
    spray.use("b")
    assert old.stop() == 0
    assert ping.wait(30) == 0 and "1000 received" in ping.log(), ping.log()


def test_new_rules_are_in_force_at_once_and_cost_no_packet(lab):
    """B37: SIGHUP; connections that are open stay.  A wrong file changes nothing."""
    a = direct(lab, lab.redis().url)
    path, right = f"{lab.dir}/a.yaml", config("embedded:")
    denied = config("embedded:", "{action: deny, protocol: tcp, destination_ports: 7000}")

    def reload(text, says):
        seen = a.log().count(says)
        with open(path, "w") as file:
            file.write(text)
        a.kill(signal.SIGHUP)
        wait_for(lambda: a.log().count(says) > seen, 10, says)

    ping = lab.start("ping", ["ping", "-q", "-i", "0.002", "-c", "1000", SERVER[4]], "client")
    with bound(lab, "server", SERVER[4], 7000) as server:
        with connect(lab, 4, 7000) as client, server.accept()[0] as accepted:
            for text, says in ((right, "reloaded, in force"), (denied, "reloaded, in force"),
                               ("firewall: [", "not reloaded, the old configuration stays")):
                reload(text, says)
            refused = lab.run_raw("nc", "-z", "-w", "1", SERVER[4], "7000", netns="client")
            assert refused.returncode == 1 and counters(a)["dropped"]["policy"] > 0
            client.sendall(b"still here")
            accepted.settimeout(PATIENCE_S)
            assert accepted.recv(100) == b"still here"
        reload(right, "reloaded, in force")
        with connect(lab, 4, 7000):
            pass
    assert ping.wait(30) == 0 and "1000 received" in ping.log(), ping.log()
    assert re.search(r"(?m)^\S+a.yaml:\d+: ", a.log())


# --- A store that comes and goes -------------------------------------------------------

def conversation(lab, ip, kind):
    """A client's and a server's end, both ready, after a word each way."""
    server = bound(lab, "server", SERVER[ip], 0, kind)
    port = server.getsockname()[1]
    if kind == socket.SOCK_STREAM:
        client = connect(lab, ip, port)
        accepted = server.accept()[0]
        accepted.settimeout(PATIENCE_S)
        server.close()
        server = accepted
    else:
        client = bound(lab, "client", CLIENT[ip], 0, kind)
        client.connect((SERVER[ip], port))
        client.send(b"first")
        server.connect(server.recvfrom(100)[1])
    both_speak(client, server)
    return client, server


def both_speak(client, server):
    for one, other in ((client, server), (server, client)):
        one.send(b"a word")
        assert other.recv(100) == b"a word"


KINDS = [(ip, kind) for ip in (4, 6) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]


def test_a_store_restarted_from_its_rdb_file_still_knows_the_connections(lab):
    store = lab.redis()
    a = direct(lab, store.url)
    pairs = [conversation(lab, *kind) for kind in KINDS]
    store.cli("SHUTDOWN", "SAVE")
    store.process.wait()
    store.start()
    for client, server in pairs:
        both_speak(server, client)          # From outside first: that needs a state.
        both_speak(client, server)
        client.close()
        server.close()
    assert sum(counters(a)["dropped"].values()) == 0
    assert "its state was lost" not in a.log()


def test_a_store_restarted_without_its_file_knows_none_and_says_so(lab):
    store = lab.redis()
    a = direct(lab, store.url)
    client, server = conversation(lab, 4, socket.SOCK_DGRAM)
    store.kill()
    store.start()
    server.send(b"a word")
    wait_for(lambda: counters(a)["dropped"]["policy"] > 0, 10, "a refusal")
    both_speak(*conversation(lab, 4, socket.SOCK_STREAM))
    a.wait_log("its state was lost, starting from nothing")
    client.close()
    server.close()


@pytest.mark.parametrize("saved", ["RDB", "AOF"])
def test_transfers_go_on_when_a_killed_store_is_back(lab, saved):
    """A bounded stall; fail closed and counted while it lasts (B38)."""
    options = ("--appendonly", "yes") if saved == "AOF" else ()
    store = lab.redis(options=options)
    a = direct(lab, store.url)
    web(lab)
    downloads = [Download(lab, ip) for ip in (4, 6)]
    for download in downloads:
        assert download.read(FILE_BYTES // 4) > 0
    if saved == "RDB":
        # The last ACKs have brought their connections to what they are then.
        assert store.cli("BGSAVE").startswith("+")
        wait_for(lambda: "RDB" in store.process.log() and
                 "DB saved on disk" in store.process.log(), 10, "the file")
    # Back at once: nobody has given up yet.
    store.kill()
    store.start()
    for download in downloads:
        assert download.read(FILE_BYTES // 4) > 0
    assert counters(a)["dropped"]["store_lost"] == 0
    # Back after packets had to be dropped.
    store.kill()
    ping = lab.start("ping", ["ping", "-q", "-i", "0.1", SERVER[4]], "client")
    wait_for(lambda: counters(a)["dropped"]["store_lost"] > 0, 10, "a loss")
    store.start()
    ping.stop()
    want = checksums(lab, "www")["f0"]
    assert [download.finish() for download in downloads] == 2 * [want]
    assert "its state was lost" not in a.log()


# --- Idle ------------------------------------------------------------------------------

def cpu_s(process):
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize("kind", ["embedded", "store"])
def test_an_idle_instance_uses_less_than_5_percent_of_a_core(lab, kind):
    a = direct(lab, "embedded:" if kind == "embedded" else lab.redis().url)
    lab.run("ping", "-q", "-c", "20", "-i", "0.01", SERVER[4], netns="client")
    before = cpu_s(a)
    select.select([], [], [], 2)        # The interval is what is measured.
    assert cpu_s(a) - before < 0.05 * 2
