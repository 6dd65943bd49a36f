"""test_store_guide.py - docs/store.md means what it says: its files and commands, put
where the page says, make stores that an instance uses.

All hosts of the page live in one namespace, each with folders of its own in place of
/etc/redis and /var/lib/redis.  Servers are started here rather than by the page's
commands, so that they end with the lab.
"""
import glob
import os
import re

import pytest

from lab import BUILD, REPO, wait_for

GUIDE = os.path.join(REPO, "docs", "store.md")
MODULE = "/usr/local/lib/x86_64-linux-gnu/statelessnf/snf_store.so"
ADMIN = ["--user", "admin", "-a", "ADMIN-PASSWORD", "--no-auth-warning"]
CONFIG = """
function: firewall
store_timeout: 5s
store: {store}
ports:
  inside: gen:flows=100,packets=20,rate=2000
  outside: "gen:"
hugepages: off
firewall:
  rules:
    - {{action: allow, direction: out}}
"""


def example(name):
    """The fenced block behind the marker of that name."""
    with open(GUIDE, encoding="utf-8") as f:
        found = re.findall(r"<!-- example: %s -->\n```\w*\n(.*?)```\n" % re.escape(name),
                           f.read(), re.DOTALL)
    assert len(found) == 1, f"{name}: {len(found)} blocks in {GUIDE}"
    return found[0]


def url(scheme):
    """What the page has instances say."""
    with open(GUIDE, encoding="utf-8") as f:
        return re.search(rf"^store: ({re.escape(scheme)}://\S+)$", f.read(), re.M)[1]


class Hosts:
    def __init__(self, lab):
        self.lab = lab
        lab.host("stores")
        for i in range(1, 8):
            lab.ip("addr", "add", f"{self.address(i)}/32", "dev", "lo", netns="stores")
            for folder in ("etc", "var"):
                os.makedirs(f"{lab.dir}/{i}/{folder}")

    @staticmethod
    def address(i):
        return f"10.9.0.{i}"

    def placed(self, i, text):
        """What the page says, for what is here."""
        home = f"{self.lab.dir}/{i}"
        return text.replace("/etc/redis", f"{home}/etc").replace(
            "/var/lib/redis", f"{home}/var").replace(MODULE, f"{BUILD}/snf_store.so")

    def file(self, i, name, *examples):
        text = "".join(example(e) for e in examples)
        text = re.sub(r"(?m)^(bind|\S*(?: |-)announce-ip) \S+$",
                      rf"\1 {self.address(i)}", self.placed(i, text))
        with open(f"{self.lab.dir}/{i}/etc/{name}", "w", encoding="utf-8") as f:
            f.write(text)

    def run(self, name, i=1):
        """Runs an example; of its lines none starts a server."""
        lines = self.placed(i, example(name)).splitlines()
        text = "\n".join(line for line in lines if not line.startswith("redis-server "))
        return self.lab.run("sh", "-ec", f"PATH={BUILD}:$PATH\n{text}", netns="stores")

    def cli(self, i, *words, port=6379, tls=()):
        return self.lab.run("redis-cli", "-h", self.address(i), "-p", str(port), *tls,
                            *ADMIN, *words, netns="stores")

    def start(self, i, name="store.conf", *words, port=6379, tls=()):
        process = self.lab.start(f"{name}-{i}", ["redis-server",
                                 f"{self.lab.dir}/{i}/etc/{name}", *words], "stores")

        def answers():
            assert process.alive, process.log()
            try:
                return "PONG" in self.cli(i, "PING", port=port, tls=tls)
            except RuntimeError:
                return False
        wait_for(answers, 20, f"answer of {name} on {i}")
        return process

    def instance(self, store, name="edge"):
        return self.lab.snf(CONFIG.format(store=store), name, "stores")

    def followers(self, i):
        """Replicas that have caught up: those that are being filled do not count."""
        return self.cli(i, "INFO", "replication").count("state=online")


@pytest.fixture
def hosts(lab):
    return Hosts(lab)


def said_by_the_code(folder):
    """All that is in quotes there, with what the compiler joins joined."""
    text = ""
    for path in glob.glob(os.path.join(REPO, "src", folder, "*.c")):
        with open(path, encoding="utf-8") as f:
            text += re.sub(r'"\s*\n\s*"', "", f.read()).replace('\\"', '"')
    return text


def column(head):
    """The code in the first column of the table with that head."""
    with open(GUIDE, encoding="utf-8") as f:
        table = re.search(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", f.read(),
                          re.M)[1]
    return [code for row in table.splitlines()
            for code in re.findall(r"`(.*?)`", row.split(" | ")[0])]


def test_the_lines_of_the_page_are_those_of_the_code():
    code = said_by_the_code("store") + "certificate has expired"    # OpenSSL's.
    lines = column("line")
    assert len(lines) > 30
    for line in lines:
        for part in re.split(r"\.\.\.|\b[A-Z]{3,}\b|\bN\b|\"", line):
            part = part.strip(" :,")
            assert len(part) < 4 or part in code, (line, part)


def test_the_fields_of_the_page_are_those_of_the_code():
    code = said_by_the_code("module")
    fields = re.findall(r"snf_(\w+)", " ".join(column("in `INFO snf`")))
    assert len(fields) > 10
    for field in fields:
        assert f'"{field}"' in code, field


def records(hosts):
    text = hosts.cli(1, "INFO", "snf")
    return int(re.search(r"snf_records:(\d+)", text)[1])


def test_one_server_is_saved_and_restored(hosts):
    hosts.file(1, "store.conf", "store.conf")
    hosts.file(1, "users.acl", "users.acl")
    server = hosts.start(1)
    instance = hosts.instance(url("valkey"))
    wait_for(lambda: records(hosts) >= 100, 20, "records")
    instance.stop()
    assert "firewall.connection" in hosts.run("one server")
    asked = hosts.run("ask")
    assert "snf_terms:1" in asked and "value_max" in asked and "histogram_usec" in asked
    saved = records(hosts)
    hosts.run("backup")
    hosts.run("delete")
    assert records(hosts) == 0
    server.kill()
    server.wait()
    lines = example("restore").splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith("redis-server "))
    hosts.lab.run("sh", "-ec", hosts.placed(1, "".join(lines[:at])), netns="stores")
    hosts.start(1, "store.conf", "--appendonly", "no")
    hosts.lab.run("sh", "-ec", "".join(lines[at + 1:]), netns="stores")
    assert records(hosts) == saved


def replicated(hosts, more, n):
    for i in range(1, n + 1):
        hosts.file(i, "users.acl", "users.acl", "users.acl, replicas")
        hosts.file(i, "store.conf", "store.conf", "store.conf, replicas",
                   *more(i))
    return {i: hosts.start(i) for i in range(1, n + 1)}


def test_a_replica_is_promoted_and_the_old_primary_follows_it(hosts):
    servers = replicated(hosts, lambda i: ["store.conf, the others"] if i > 1 else [], 3)
    for i in (1, 2, 3):
        hosts.file(i, "sentinel.conf", "sentinel.conf")
        hosts.file(i, "sentinel-users.acl", "sentinel-users.acl")
        hosts.start(i, "sentinel.conf", "--sentinel", port=26379)
    wait_for(lambda: hosts.followers(1) == 2, 30, "replicas")
    wait_for(lambda: "slaves=2,sentinels=3" in hosts.cli(1, "INFO", "sentinel", port=26379),
             30, "sentinels that agree")
    assert "OK 3 usable" in hosts.run("sentinels")
    instance = hosts.instance(url("valkey+sentinel"))
    assert "it has a replica" in instance.log()
    servers[1].kill()
    instance.wait_log("connected again", 15)
    servers[1].wait()
    hosts.start(1)
    wait_for(lambda: hosts.cli(1, "ROLE").startswith("slave"), 40, "a replica")
    shown = hosts.lab.run(f"{BUILD}/snf", "show", "store",
                          url("valkey+sentinel").replace("edge:EDGE", "watch:WATCH"),
                          netns="stores")
    assert "firewall.connection" in shown
    before = instance.log().count("connected again")
    wait_for(lambda: "OK" in hosts.run("fail over"), 40, "a planned failover")
    wait_for(lambda: instance.log().count("connected again") > before, 20, "the new one")
    assert "was lost" not in instance.log()


def test_a_cluster_is_made_and_its_partitions_move(hosts):
    replicated(hosts, lambda i: ["store.conf, cluster"], 7)
    hosts.run("create")
    wait_for(lambda: all("cluster_state:ok" in hosts.cli(i, "CLUSTER", "INFO") and
                         hosts.cli(i, "CLUSTER", "NODES").count("slave") == 3
                         for i in range(1, 7)), 30, "a whole cluster")
    wait_for(lambda: all(hosts.followers(i) == 1 for i in (1, 2, 3)), 30, "replicas")
    instance = hosts.instance(url("valkey+cluster"))
    assert hosts.run("slots").splitlines()[3] == "6345"
    hosts.run("reshard")
    hosts.run("move")
    instance.wait_log("connected again", 10)
    slots = [int(line) for line in hosts.run("slots").splitlines()[:16]]
    assert hosts.cli(1, "CLUSTER", "COUNTKEYSINSLOT", str(slots[11])) == "1\n"
    hosts.run("spare")
    wait_for(lambda: hosts.cli(1, "CLUSTER", "NODES").count("slave") == 4, 20, "a spare")
    hosts.cli(4, "CLUSTER", "FAILOVER")
    wait_for(lambda: hosts.cli(4, "ROLE").startswith("master"), 20, "a planned failover")
    assert "was lost" not in instance.log()


def test_a_server_with_tls_takes_a_new_certificate(hosts):
    hosts.file(1, "server.ext", "server.ext")
    hosts.run("certificates")
    hosts.file(1, "users.acl", "users.acl")
    hosts.file(1, "store.conf", "store.conf", "store.conf, TLS")
    etc = f"{hosts.lab.dir}/1/etc"
    hosts.start(1, tls=("--tls", "--cacert", f"{etc}/ca.crt"))
    assert "PONG" in hosts.run("TLS")
    instance = hosts.instance(hosts.placed(1, url("valkeys")))
    assert "OK" in hosts.run("new certificate")
    assert instance.alive
