"""test_store_find.py - how a client finds the primary, stays with it and says why it
cannot: passwords, replicas, servers that load or hang, TLS, Sentinels, a Cluster.  Real
servers on 127.0.0.1, no root.
"""
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from store_client import (BUILD, SERVER, Client, Server, die_with_parent, follow,
                          needs_module, on_a_port, pair, tcp_server, wait_until)

pytestmark = needs_module
PROBE = os.path.join(BUILD, "tests", "link-probe")
DOWN_MS = 500


class Probe:
    """A link in a process of its own; its lines, and what it logs."""

    def __init__(self, url, timeout_ms=1000):
        self.process = subprocess.Popen(
            [PROBE, url, str(timeout_ms)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        self.lines, self.logged = [], []
        self.threads = [threading.Thread(target=self._read, args=pipe) for pipe in
                        ((self.process.stdout, self.lines),
                         (self.process.stderr, self.logged))]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _read(pipe, lines):
        for line in pipe:
            lines.append(line.rstrip("\n"))

    def end(self):
        """Lets it end by itself, so that a sanitizer can say what it has to.  Returns
        how many connections it made."""
        self.process.stdin.close()
        code = self.process.wait(10)
        for thread in self.threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()
        assert code in (0, 1), (code, self.logged)
        last = self.lines[-1].split()
        return int(last[1]) if last[0] == "connections" else 0

    def where(self):
        """The port where it is up, or None."""
        last = self.lines[-1].split(" ", 2) if self.lines else [0, "down"]
        return int(last[2].rsplit(":", 1)[1]) if last[1] == "up" else None

    def up_at(self, port, seconds=20):
        try:
            wait_until(lambda: self.where() == port, seconds)
        except TimeoutError:
            pytest.fail("not up at %d: %s" % (port, self.lines))

    def says(self, text, seconds=20):
        try:
            wait_until(lambda: any(text in line for line in self.lines), seconds)
        except TimeoutError:
            pytest.fail("not said: %s: %s" % (text, self.lines))

    def hopeless(self):
        return self.lines[-1].endswith(" hopeless")


@pytest.fixture
def probe():
    if not os.path.exists(PROBE):
        pytest.skip(PROBE + " is not built")
    probes = []

    def start(url, timeout_ms=1000):
        probes.append(Probe(url, timeout_ms))
        return probes[-1]

    yield start
    for running in probes:
        if running.process.returncode is None:
            running.end()


def url_of(server, user=""):
    return "valkey://%s127.0.0.1:%d" % (user, server.port)


def accepted(client):
    return int(client.info("stats")["total_connections_received"])


# --- What is wrong is said, and tried again at leisure ---------------------------------

def test_a_wrong_password_makes_one_line_and_few_connections(tcp_server, probe):
    client = tcp_server.client()
    client("ACL", "SETUSER", "nf", "on", ">good", "~snf:*", "+snf.open", "+snf.mark")
    running = probe(url_of(tcp_server, "nf:good@"))
    running.up_at(tcp_server.port)
    client("ACL", "SETUSER", "nf", "<good", ">other")
    client("CLIENT", "KILL", "USER", "nf")
    running.says("wrong password: set user:password@ in the URL")
    before, end = accepted(client), time.monotonic() + 5
    wait_until(lambda: time.monotonic() > end)
    assert 1 <= accepted(client) - before <= 15
    assert len(running.logged) == 2, running.logged
    assert "wrong password" in running.logged[1] and "good" not in "".join(running.logged)
    client("ACL", "SETUSER", "nf", ">good")
    running.up_at(tcp_server.port)
    wait_until(lambda: len(running.logged) == 3)
    assert "connected again" in running.logged[2]


@pytest.mark.parametrize("user, words", [
    ("nf:bad@", "wrong password"), ("nobody:good@", "wrong password"),
    ("", "it wants a password: set user:password@"), ("nf:good@", "the user may not")])
def test_who_may_not_is_told_why(tcp_server, probe, user, words):
    client = tcp_server.client()
    client("ACL", "SETUSER", "nf", "on", ">good", "~snf:*", "+snf.mark")
    client("ACL", "SETUSER", "default", "resetpass", ">secret")
    running = probe(url_of(tcp_server, user))
    running.says(words)
    assert running.hopeless() and not running.logged


def test_a_user_of_other_keys_is_told_so(tcp_server, probe):
    tcp_server.client()("ACL", "SETUSER", "nf", "on", ">good", "~snf:{mine:*",
                        "+snf.open", "+snf.mark")
    running = probe(url_of(tcp_server, "nf:good@"))
    running.says("may not use this store's keys")
    probe(url_of(tcp_server, "nf:good@") + "/mine").up_at(tcp_server.port)


def test_a_replica_is_told_and_taken_when_it_is_promoted(pair, probe):
    one, two = pair
    replica = follow(two, one)
    running = probe(url_of(two))
    running.says("server is a replica")
    assert not running.hopeless()
    replica("REPLICAOF", "NO", "ONE")
    running.up_at(two.port)
    replica("REPLICAOF", "127.0.0.1", one.port)
    wait_until(lambda: "server is a replica" in running.lines[-1])
    before, end = accepted(replica), time.monotonic() + 3
    wait_until(lambda: time.monotonic() > end)
    assert accepted(replica) - before < 300
    assert len(running.logged) == 1, running.logged


def test_a_server_that_loads_is_waited_for(tmp_path, probe):
    with on_a_port(tmp_path, "--enable-debug-command", "local",
                   "--key-load-delay", "1000",
                   "--loading-process-events-interval-bytes", "1024") as server:
        running = probe(url_of(server))
        running.up_at(server.port)
        client = server.client()
        client("DEBUG", "POPULATE", 1500)
        client.send("DEBUG", "RELOAD")
        running.says("the server is loading its data")
        running.up_at(server.port)
        assert len(running.logged) <= 4, running.logged


def test_a_server_that_hangs_is_left_and_found_again(tcp_server, probe):
    running = probe(url_of(tcp_server), 200)
    running.up_at(tcp_server.port)
    tcp_server.process.send_signal(signal.SIGSTOP)
    running.says("no answer within 200 ms")
    running.says("no answer from the server")
    tcp_server.process.send_signal(signal.SIGCONT)
    running.up_at(tcp_server.port)
    assert len(running.logged) == 3, running.logged


def test_a_restart_is_noticed_and_found(tcp_server, probe):
    running = probe(url_of(tcp_server))
    running.up_at(tcp_server.port)
    tcp_server.kill()
    running.says("is a server running there?")
    os.unlink(tcp_server.path)
    tcp_server.start()
    running.up_at(tcp_server.port)


# --- TLS -------------------------------------------------------------------------------

class Certificates:
    """An authority in a folder, and what it signs."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt",
                     "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj",
                     "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")

    def openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.folder, check=True,
                       capture_output=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def make(self, name, names, days=30):
        with open(self.path(name + ".ext"), "w") as file:
            file.write("subjectAltName=%s\n" % names)
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                     "-nodes", "-subj", "/CN=" + name, "-keyout", name + ".key", "-out",
                     name + ".csr")
        self.openssl("x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey",
                     "ca.key", "-CAcreateserial", "-days", str(days), "-extfile",
                     name + ".ext", "-out", name + ".pem")
        return self.path(name + ".pem"), self.path(name + ".key")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    made = Certificates(tmp_path_factory.mktemp("tls"))
    made.make("good", "IP:127.0.0.1,DNS:localhost")
    made.make("second", "IP:127.0.0.1,DNS:localhost")
    made.make("named", "DNS:localhost")
    made.make("other", "DNS:other.example,IP:10.9.9.9")
    made.make("expired", "IP:127.0.0.1", days=-1)
    made.make("client", "DNS:client")
    Certificates.openssl(made, "req", "-x509", "-newkey", "ec", "-pkeyopt",
                         "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj",
                         "/CN=stranger", "-keyout", "stranger.key", "-out",
                         "stranger.pem")
    return made


@pytest.fixture
def tls_server(tmp_path, certificates):
    servers = []

    def start(name, auth="no", *args):
        folder = tmp_path / name
        folder.mkdir()
        port = random.randrange(20000, 30000)
        server = Server(folder, "--tls-port", str(port), "--bind", "127.0.0.1",
                        "--tls-cert-file", certificates.path(name + ".pem"),
                        "--tls-key-file", certificates.path(name + ".key"),
                        "--tls-ca-cert-file", certificates.path("ca.pem"),
                        "--tls-auth-clients", auth, *args)
        server.port = port
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.kill()


def tls_url(server, certificates, host="127.0.0.1", more=""):
    return "valkeys://%s:%d?ca=%s%s" % (host, server.port, certificates.path("ca.pem"),
                                        more)


def test_tls_with_the_address_or_the_name_in_the_certificate(tls_server, certificates,
                                                             probe):
    server = tls_server("good")
    probe(tls_url(server, certificates)).up_at(server.port)
    probe(tls_url(server, certificates, "localhost")).up_at(server.port)


def test_a_connection_under_tls_survives_a_restart(tls_server, certificates, probe):
    server = tls_server("good")
    running = probe(tls_url(server, certificates), 300)
    running.up_at(server.port)
    server.restart()
    running.says("down")
    running.up_at(server.port)
    server.process.send_signal(signal.SIGSTOP)
    running.says("no answer within 300 ms")
    server.process.send_signal(signal.SIGCONT)
    running.up_at(server.port)


@pytest.mark.parametrize("name, words", [
    ("expired", "its certificate: certificate has expired"),
    ("other", "its certificate is not for 127.0.0.1"),
    ("named", "its certificate is not for 127.0.0.1"),
    ("stranger", "its certificate: self-signed certificate: name who signed it by ?ca=")])
def test_a_bad_certificate_is_told_and_not_believed(tls_server, certificates, probe, name,
                                                    words):
    server = tls_server(name)
    running = probe(tls_url(server, certificates))
    running.says(words)
    assert running.hopeless()
    end = time.monotonic() + 3
    wait_until(lambda: time.monotonic() > end)
    assert 3 <= running.end() <= 15         # 10 ms, 20 ms and on, and then 2 s.
    assert not any(" up " in line for line in running.lines)


def test_an_authority_that_is_not_named_is_not_believed(tls_server, certificates, probe):
    server = tls_server("good")
    running = probe("valkeys://127.0.0.1:%d" % server.port)
    running.says("its certificate: ")
    assert "?ca=FILE" in running.lines[-1]


def test_a_server_that_wants_a_certificate_gets_it(tls_server, certificates, probe):
    server = tls_server("good", "yes")
    running = probe(tls_url(server, certificates))
    running.says("the server wants a certificate of ours: give ?cert=FILE&key=FILE")
    assert running.hopeless()
    probe(tls_url(server, certificates, more="&cert=%s&key=%s" % (
        certificates.path("client.pem"), certificates.path("client.key")))).up_at(
            server.port)


def test_tls_where_there_is_none_and_the_other_way_round(tls_server, tcp_server,
                                                         certificates, probe):
    server = tls_server("good")
    running = probe("valkey://127.0.0.1:%d" % server.port)
    running.says("TLS (valkeys://)")
    running = probe(tls_url(tcp_server, certificates), 300)
    running.says("down")
    assert "TLS" in running.lines[-1], running.lines


@pytest.mark.parametrize("query, words", [
    ("ca=/nowhere", "the authorities' file /nowhere: No such file"),
    ("cert=/nowhere&key=/nowhere", "the certificate /nowhere: No such file"),
    ("ca={ca.key}", "the authorities' file "),
    ("cert={good.pem}&key={client.key}", "the key ")])
def test_a_bad_file_is_told_at_the_start(certificates, probe, query, words):
    for name in ("ca.key", "good.pem", "client.key"):
        query = query.replace("{%s}" % name, certificates.path(name))
    running = probe("valkeys://127.0.0.1:1?" + query)
    running.says("error ")
    assert words in running.lines[-1]


# --- Sentinels -------------------------------------------------------------------------

class Sentinel:
    def __init__(self, folder, primary, service="main", quorum=1, more="", listen="port"):
        self.port = random.randrange(30000, 32000)
        self.folder = folder
        folder.mkdir()
        path = folder / "sentinel.conf"
        path.write_text("%s %d\nbind 127.0.0.1\ndir %s\n"
                        "sentinel monitor %s 127.0.0.1 %d %d\n"
                        "sentinel down-after-milliseconds %s %d\n"
                        "sentinel failover-timeout %s 3000\n%s\n"
                        % (listen, self.port, folder, service, primary.port, quorum,
                           service, DOWN_MS, service, more))
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen([SERVER, str(path), "--sentinel"], stdout=log,
                                            stderr=log, preexec_fn=die_with_parent)
        wait_until(self.answers)

    def answers(self):
        try:
            Client(("127.0.0.1", self.port)).close()
            return True
        except OSError:
            return False

    def client(self):
        return Client(("127.0.0.1", self.port))

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def watched(pair, tmp_path):
    """A primary, a replica, and three sentinels that know of each other."""
    one, two = pair
    follow(two, one)
    sentinels = [Sentinel(tmp_path / ("sentinel-%d" % i), one, quorum=2)
                 for i in range(3)]
    for sentinel in sentinels:
        client = sentinel.client()
        wait_until(lambda: b"slaves=1,sentinels=3" in client("INFO", "sentinel"))
        client.close()
    yield one, two, sentinels
    for sentinel in sentinels:
        sentinel.kill()


def sentinel_url(sentinels, service="main", user=""):
    return "valkey+sentinel://%s%s/%s" % (
        user, ",".join("127.0.0.1:%d" % s.port for s in sentinels), service)


def told(sentinel):
    client = sentinel.client()
    _, port = client("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
    client.close()
    return int(port)


def milliseconds_after(probe, sentinels, port):
    """How much later than the first sentinel the probe knew of the new primary."""
    wait_until(lambda: any(told(s) == port for s in sentinels), 30)
    known = time.monotonic() * 1000
    probe.up_at(port)
    return int(probe.lines[-1].split()[0]) - known


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_promotion_is_followed(watched, probe, how):
    one, two, sentinels = watched
    running = probe(sentinel_url(sentinels), 300)
    running.up_at(one.port)
    one.process.send_signal(how)
    late = milliseconds_after(running, sentinels, two.port)
    print("%.0f ms after a sentinel knew" % late)
    assert late < 500  # Sentinels tell each other within a few 100 ms.
    if how == signal.SIGSTOP:
        one.process.send_signal(signal.SIGCONT)
    assert len(running.logged) <= 6, running.logged


def test_a_planned_failover_is_followed(watched, probe):
    one, two, sentinels = watched
    running = probe(sentinel_url(sentinels))
    running.up_at(one.port)
    client = sentinels[1].client()
    client("SENTINEL", "FAILOVER", "main")
    client.close()
    running.up_at(two.port)


def test_dead_and_hanging_sentinels_are_passed_over(watched, probe):
    one, two, sentinels = watched
    sentinels[0].process.send_signal(signal.SIGSTOP)
    sentinels[1].kill()
    running = probe(sentinel_url(sentinels))
    running.up_at(one.port, 2)
    sentinels[2].kill()
    running.says("up")
    wait_until(lambda: any("Sentinel" in line for line in running.logged))
    sentinels[0].process.send_signal(signal.SIGCONT)
    end = time.monotonic() + 1
    wait_until(lambda: time.monotonic() > end)
    assert running.where() == one.port and len(running.logged) < 5


def test_an_unknown_service_is_told(watched, probe):
    running = probe(sentinel_url(watched[2], "other"))
    running.says('it knows no service "other"')
    assert running.hopeless()


def test_a_sentinel_with_a_password(tcp_server, tmp_path, probe):
    client = tcp_server.client()
    client("CONFIG", "SET", "requirepass", "secret", "masterauth", "secret")
    sentinel = Sentinel(tmp_path / "sentinel", tcp_server,
                        more="requirepass secret\nsentinel auth-pass main secret")
    try:
        probe(sentinel_url([sentinel], user=":secret@")).up_at(tcp_server.port)
        running = probe(sentinel_url([sentinel]))
        running.says("it wants a password")
        assert running.hopeless()
        running = probe(sentinel_url([sentinel], user=":wrong@"))
        running.says("wrong password")
        assert running.hopeless()
    finally:
        sentinel.kill()
        client("CONFIG", "SET", "requirepass", "")


def test_sentinel_and_server_under_tls(tls_server, certificates, tmp_path, probe):
    server = tls_server("good", "no", "--tls-replication", "yes")
    sentinel = Sentinel(tmp_path / "sentinel", server, listen="port 0\ntls-port", more=(
        "tls-cert-file {0}/good.pem\ntls-key-file {0}/good.key\n"
        "tls-ca-cert-file {0}/ca.pem\ntls-auth-clients no\n"
        "tls-replication yes").format(certificates.folder))
    try:
        url = "valkeys+sentinel://localhost:%d/main?ca=" % sentinel.port
        probe(url + certificates.path("ca.pem")).up_at(server.port)
        running = probe(url + certificates.path("other.pem"))
        running.says("its certificate: ")
        assert running.hopeless()
    finally:
        sentinel.kill()


def test_a_server_in_place_of_a_sentinel_is_told(tcp_server, probe):
    running = probe("valkey+sentinel://127.0.0.1:%d/main" % tcp_server.port)
    running.says("this is no Sentinel")


# --- A Cluster -------------------------------------------------------------------------

class Cluster:
    """Three primaries with a replica each."""

    def __init__(self, folder):
        self.servers = [on_a_port(folder / ("node-%d" % i), "--cluster-enabled", "yes",
                                  "--cluster-node-timeout", str(DOWN_MS))
                        for i in range(6)]
        where = ["127.0.0.1:%d" % s.port for s in self.servers]
        subprocess.run(["redis-cli", "--cluster", "create", *where, "--cluster-replicas",
                        "1", "--cluster-yes"], check=True, capture_output=True)
        self.url = "valkey+cluster://%s,%s" % (where[0], where[1])
        for server in self.servers:
            client = server.client()
            wait_until(lambda: client.info("replication")["role"] == "master" or
                       client.info("replication")["master_link_status"] == "up")
            wait_until(lambda: b"cluster_state:ok" in client("CLUSTER", "INFO"))

    def owner(self, key, among=None):
        """The primary of a key's slot, as the others see it."""
        for server in among or self.servers:
            client = Client(server.path)
            slot = client("CLUSTER", "KEYSLOT", key)
            for first, last, primary, *_ in client("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    client.close()
                    return next(s for s in self.servers if s.port == primary[1])
            client.close()
        raise LookupError(key)

    def names(self):
        """A store's name for each primary that the first two servers are not."""
        for i in range(1000):
            if self.owner("snf:{n%d:0}" % i) not in self.servers[:2]:
                return "n%d" % i

    def kill(self):
        for server in self.servers:
            if server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)
                server.kill()


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.kill()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_failover_in_a_cluster_is_followed(cluster, probe, how):
    name = cluster.names()
    key = "snf:{%s:0}" % name
    owner = cluster.owner(key)
    running = probe(cluster.url + "/" + name, 300)
    running.up_at(owner.port)
    owner.process.send_signal(how)
    others = [s for s in cluster.servers if s is not owner]
    wait_until(lambda: cluster.owner(key, others) is not owner, 30)
    known, new = time.monotonic() * 1000, cluster.owner(key, others)
    running.up_at(new.port)
    late = int(running.lines[-1].split()[0]) - known
    print("%.0f ms after a server knew" % late)
    assert late < 1500 and len(running.logged) <= 9, (late, running.logged)


def test_a_partition_that_is_moved_is_followed(cluster, probe):
    name = cluster.names()
    key = "snf:{%s:0}" % name
    source = cluster.owner(key)
    target = cluster.servers[0]
    running = probe(cluster.url + "/" + name)
    running.up_at(source.port)
    one, two = source.client(), target.client()
    slot = one("CLUSTER", "KEYSLOT", key)
    ids = [c("CLUSTER", "MYID") for c in (one, two)]
    two("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    one("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    one("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    running.up_at(target.port)              # By ASK.
    for client in (two, one):
        client("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    before = accepted(two)
    two("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until(lambda: accepted(two) > before)
    running.up_at(target.port)              # By itself, and then by MOVED.
    assert two("EXISTS", key) == 1


def test_a_cluster_is_told_to_who_does_not_expect_one(cluster, probe):
    name = cluster.names()
    running = probe("valkey://127.0.0.1:%d/%s" % (cluster.servers[0].port, name))
    running.says("it is a Cluster: use valkey+cluster://")
    assert running.hopeless()
