"""beds.py - stores that can be broken: a single server, one watched by Sentinels, and a
Cluster, each server in a network namespace of its own behind one that routes.  So a link
can be cut for real, between any two: packets vanish, nobody is told.

A bed is made once and used for many runs: start(), faults while clients work, settle(),
end().  It keeps to what commit 1 promises: a server that held the only other copy of what
was acknowledged is not touched before its peer has all of it.
"""
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../system"))
from lab import BUILD, wait_for
from store_client import SERVER, Client, Refused

PORT, WATCH_PORT = 6379, 26379
NAME = "chaos"
SLOTS = 16384
SETTLE_S = 60


class Program:
    """A process in the lab that may be stopped.  nsenter, which starts it, stops with its
    child and would have to be woken as well, so there is a shell in between."""

    def __init__(self, lab, name, argv, host):
        self.name = name
        self.process = lab.start(name, ["sh", "-c", '"$@"; exit $?', "sh", *argv], host)
        self._pid = None

    @property
    def pid(self):
        def child():
            if not self.alive:
                raise RuntimeError(f"{self.name} ended at once:\n{self.log()}")
            path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
            with open(path) as children:
                return int(children.read() or 0)
        if self._pid is None:
            self._pid = wait_for(child, 10, f"start of {self.name}")
        return self._pid

    @property
    def alive(self):
        return self.process.alive

    def log(self):
        return self.process.log()

    def kill(self, number=signal.SIGKILL):
        if self.alive:
            os.kill(self.pid, number)

    def wait(self, timeout=10):
        """The exit status, as of a shell."""
        return self.process.wait(timeout)


class Net:
    """Hosts that reach each other through a hub: 10.0.N.2 each."""

    def __init__(self, lab, names):
        self.lab, self.names = lab, names
        self.address = {name: f"10.0.{i + 1}.2" for i, name in enumerate(names)}
        lab.host("hub")
        for name in names:
            gate = self.address[name][:-1] + "1"
            lab.host(name, f"{self.address[name]}/24")
            lab.link(f"{name}:eth0", f"hub:{name}")
            lab.ip("addr", "add", f"{gate}/24", "dev", name, netns="hub")
            lab.ip("route", "add", "default", "via", gate, netns=name)
        lab.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward", netns="hub")
        self._rules("table ip chaos {\n"
                    "set cut { type ipv4_addr . ipv4_addr; }\n"
                    "chain pass { type filter hook forward priority 0;\n"
                    "ip saddr . ip daddr @cut drop; }\n}\n")

    def _rules(self, text):
        self.lab.run("nft", "-f", "-", netns="hub", stdin=text)

    def cut(self, name, others):
        pairs = ", ".join(f"{a} . {b}" for other in others
                          for a, b in ((self.address[name], self.address[other]),
                                       (self.address[other], self.address[name])))
        self._rules(f"add element ip chaos cut {{ {pairs} }}\n")

    def plug(self, name, state):
        self.lab.ip("link", "set", "dev", name, state, netns="hub")

    def heal(self):
        self._rules("flush set ip chaos cut\n")
        for name in self.names:
            self.plug(name, "up")


class Node:
    """A server.  It is spoken to through a socket that no cut reaches."""

    def __init__(self, bed, host, options=()):
        self.bed, self.host = bed, host
        self.address = bed.net.address.get(host)
        self.options = options
        self.process = None
        self.paused = False

    def prepare(self, home):
        self.home = home
        self.socket = f"{home}/s"
        os.mkdir(home)

    def start(self, *more):
        self.paused = False
        self.process = Program(self.bed.lab, f"{self.host}-{self.bed.n_runs}", [
            SERVER, "--port", str(PORT), "--unixsocket", self.socket, "--dir",
            self.home, "--save", "", "--protected-mode", "no", "--daemonize", "no",
            "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1",
            "--repl-timeout", "5", "--loadmodule", f"{BUILD}/snf_store.so",
            *self.options, *more], self.host)

    def await_answer(self):
        def answers():
            if not self.process.alive:
                raise RuntimeError(f"{self.host} ended:\n{self.process.log()[-3000:]}")
            return self.ask("PING") == "PONG"
        self.bed.wait(answers, f"answer of {self.host}")

    def call(self, *words):
        client = Client(self.socket)
        try:
            client.socket.settimeout(10)
            return client(*words)
        finally:
            client.close()

    def ask(self, *words):
        """The same, None if there is no answer or it is an error."""
        if not self.alive or self.paused:
            return None
        try:
            return self.call(*words)
        except (OSError, Refused):
            return None

    def info(self, section):
        text = self.ask("INFO", section) or b""
        return dict(line.split(":", 1) for line in text.decode().splitlines()
                    if ":" in line)

    @property
    def alive(self):
        return self.process is not None and self.process.alive

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.paused = False

    def pause(self):
        self.paused = True
        self.process.kill(signal.SIGSTOP)

    def resume(self):
        self.process.kill(signal.SIGCONT)
        self.paused = False

    def is_primary(self):
        return self.info("replication").get("role") == "master"

    def follows(self, primary):
        """Whether it has all that the primary has had until now."""
        there, here = primary.info("replication"), self.info("replication")
        if (there.get("role"), here.get("role")) != ("master", "slave"):
            return False
        offset = int(there["master_repl_offset"])
        return (here["master_host"] == primary.address and
                here["master_link_status"] == "up" and
                here["master_sync_in_progress"] == "0" and
                "state=online" in there.get("slave0", "") and
                int(here["slave_repl_offset"]) >= offset)


class Bed:
    """What the kinds have in common.  A shard is a primary and its replica, if any."""

    commit, strict, n_partitions = 1, False, 2
    hosts = ()

    def __init__(self, lab):
        self.lab, self.n_runs, self.log = lab, 0, None
        self.net = Net(lab, [*self.hosts, "clients"])
        self.moving = threading.Lock()  # A migration needs its connections.
        self.abandoned = threading.Event()

    def wait(self, predicate, what):
        """wait_for(), which ends at once when all of it is given up."""
        def look():
            if self.abandoned.is_set():
                raise RuntimeError(f"given up: {what}")
            return predicate()
        return wait_for(look, SETTLE_S, what)

    def start(self, folder, log):
        self.n_runs += 1
        self.log = log
        self.launch(folder)
        self.wait(self.settled, "a store that works")

    def key(self, partition):
        return f"snf:{{{NAME}:{partition}}}"

    def settle(self):
        """Everything back in order: each shard with a primary and a peer that has all of
        it.  Nobody says so: it is asked for."""
        self.net.heal()
        for node in self.nodes:
            if node.paused:
                node.resume()
            if not node.alive:
                self.restart(node)
        self.wait(self.settled, "a store in order")

    def settled(self):
        return all(self.in_order(shard) for shard in self.shards)

    def primary_of(self, partition):
        """The one that has it, and those that have a copy."""
        return self.peers(self.shard_of(partition))

    def peers(self, shard):
        primary = self.wait(lambda: self.primary(shard), "a primary")
        return primary, [node for node in shard if node is not primary]

    def shard_of(self, _partition):
        return self.shards[0]

    def end(self):
        for node in self.daemons():
            if node.alive:
                node.kill()
        self.net.heal()

    def daemons(self):
        return self.nodes


class Single(Bed):
    """One server that writes each effect to its disk before it answers."""

    commit, strict = 0, True
    hosts = ("one",)

    def __init__(self, lab):
        super().__init__(lab)
        self.nodes = [Node(self, "one", ("--appendonly", "yes", "--appendfsync", "always"))]
        self.shards = [self.nodes]

    def launch(self, folder):
        self.nodes[0].prepare(f"{folder}/one")
        self.nodes[0].start()
        self.nodes[0].await_answer()

    @property
    def url(self):
        return f"valkey://{self.nodes[0].address}:{PORT}/{NAME}"

    def primary(self, shard):
        return shard[0]

    def in_order(self, shard):
        return shard[0].ask("PING") == "PONG"

    def restart(self, node):
        node.start()
        node.await_answer()


class Sentinel(Bed):
    """A primary, a replica, and three Sentinels that are quick to judge."""

    hosts = ("one", "two", "watch")

    def __init__(self, lab):
        super().__init__(lab)
        self.nodes = [Node(self, "one"), Node(self, "two")]
        self.shards = [self.nodes]
        self.watchers = [Watcher(self, i) for i in range(3)]

    @property
    def url(self):
        host = self.net.address["watch"]
        hosts = ",".join(f"{host}:{watcher.port}" for watcher in self.watchers)
        return f"valkey+sentinel://{hosts}/store?name={NAME}"

    def launch(self, folder):
        one, two = self.nodes
        for node in self.nodes:
            node.prepare(f"{folder}/{node.host}")
        one.start()
        two.start("--replicaof", one.address, str(PORT))
        for node in self.nodes:
            node.await_answer()
        for watcher in self.watchers:
            watcher.prepare(f"{folder}/watch{watcher.port}")
            watcher.start()
        for watcher in self.watchers:
            watcher.await_answer()
            watcher.hurry()

    def primary(self, shard):
        """Which one most of the Sentinels say it is, if it agrees."""
        for node in shard:
            votes = sum(w.primary() == node.address for w in self.watchers)
            if votes >= 2 and node.is_primary():
                return node
        return None

    def in_order(self, shard):
        primary = self.primary(shard)
        if primary is None:
            return False
        other, = [node for node in shard if node is not primary]
        if not other.follows(primary):
            return False
        if other.call("CONFIG", "GET", "replica-priority")[1] == b"0":
            other.call("CONFIG", "SET", "replica-priority", "100")
        return all(w.ready(primary, other) for w in self.watchers)

    def restart(self, node):
        """What starts empty must not be promoted before it has everything."""
        other, = [n for n in self.nodes if n is not node]
        self.wait(lambda: self.primary(self.nodes) is other, "a promotion")
        node.start("--replicaof", other.address, str(PORT), "--replica-priority", "0")
        node.await_answer()

    def force(self, shard, _draw):
        try:
            self.watchers[0].call("SENTINEL", "FAILOVER", "store")
        except Refused as why:
            self.log(f"no forced failover: {why}")

    def daemons(self):
        return self.nodes + self.watchers


class Watcher(Node):
    def __init__(self, bed, number):
        super().__init__(bed, "watch")
        self.port = WATCH_PORT + number

    def start(self):
        one, _ = self.bed.nodes
        with open(f"{self.home}/conf", "w") as file:
            file.write(f"port {self.port}\nunixsocket {self.socket}\ndir {self.home}\n"
                       f"protected-mode no\n"
                       f"sentinel monitor store {one.address} {PORT} 2\n"
                       f"sentinel down-after-milliseconds store 500\n"
                       f"sentinel failover-timeout store 2000\n")
        self.process = Program(self.bed.lab, f"watch{self.port}-{self.bed.n_runs}",
                               [SERVER, f"{self.home}/conf", "--sentinel"], self.host)

    def hurry(self):
        """Its own periods are of seconds, and it rests for 30 when it was held up."""
        self.call("SENTINEL", "DEBUG", "info-period", "500", "publish-period", "300",
                  "ask-period", "200", "ping-period", "200", "election-timeout", "1000",
                  "tilt-period", "500", "min-link-reconnect-period", "200")

    def primary(self):
        answer = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "store")
        return answer and answer[0].decode()

    def ready(self, primary, other):
        """Whether it could fail over now."""
        masters = self.ask("SENTINEL", "MASTERS") or [[]]
        replicas = self.ask("SENTINEL", "REPLICAS", "store") or []
        master, others = pairs(masters[0]), [pairs(r) for r in replicas]
        return (master.get("ip") == primary.address and master["flags"] == "master" and
                master["num-other-sentinels"] == "2" and
                any(r["ip"] == other.address and r["flags"] == "slave" and
                    r["slave-priority"] == "100" and r["master-link-status"] == "ok" and
                    r["role-reported"] == "slave" for r in others))


def pairs(words):
    words = [w.decode() if isinstance(w, bytes) else str(w) for w in words]
    return dict(zip(words[::2], words[1::2]))


class Cluster(Bed):
    """Three primaries with a replica each."""

    n_partitions = 6
    hosts = tuple(f"n{i}" for i in range(6))

    def __init__(self, lab):
        super().__init__(lab)
        self.nodes = [Node(self, host, (
            "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
            "--cluster-allow-replica-migration", "no")) for host in self.hosts]
        self.shards = [self.nodes[i::3] for i in range(3)]
        for i, node in enumerate(self.nodes):
            node.id = f"{i + 1:040x}"

    @property
    def url(self):
        seeds = ",".join(f"{node.address}:{PORT}" for node in self.nodes[::2])
        return f"valkey+cluster://{seeds}/{NAME}"

    def launch(self, folder):
        """All know each other from the start: what they would have agreed upon is in
        their files."""
        for node in self.nodes:
            node.prepare(f"{folder}/{node.host}")
            with open(f"{node.home}/nodes.conf", "w") as file:
                file.write("".join(self._line(i, node) for i in range(6)) +
                           "vars currentEpoch 3 lastVoteEpoch 0\n")
            node.start()
        for node in self.nodes:
            node.await_answer()

    def _line(self, i, reader):
        node = self.nodes[i]
        me = "myself," if node is reader else ""
        where = f"{node.id} {node.address}:{PORT}@{PORT + 10000}"
        if i >= 3:
            return f"{where} {me}slave {self.nodes[i - 3].id} 0 0 {i - 2} connected\n"
        first, last = SLOTS * i // 3, SLOTS * (i + 1) // 3 - 1
        return f"{where} {me}master - 0 0 {i + 1} connected {first}-{last}\n"

    def view(self, node):
        """Of each node, as this one sees it: flags, whom it follows, epoch, slots."""
        text = node.ask("CLUSTER", "NODES") or b""
        lines = [line.split() for line in text.decode().splitlines()]
        return {l[0]: (l[2].split(","), l[3], int(l[6]), l[8:]) for l in lines}

    def primary(self, shard):
        best = None
        for node in shard:
            flags, _, epoch, slots = self.view(node).get(node.id, ((), 0, 0, ()))
            if "master" in flags and slots and (best is None or epoch > best[0]):
                best = epoch, node
        return best and best[1]

    def settled(self):
        """And all of them see it alike."""
        if not super().settled():
            return False
        views = [self.view(node) for node in self.nodes]
        for node in self.nodes:
            if "cluster_state:ok" not in (node.ask("CLUSTER", "INFO") or b"").decode():
                return False
        seen = {(i, tuple(f for f in flags if f != "myself"), whom, tuple(
            s for s in slots if not s.startswith("["))) for view in views
            for i, (flags, whom, _, slots) in view.items()}
        return len(seen) == len(self.nodes) and not any(
            f in flags for _, flags, _, _ in seen for f in ("fail", "fail?"))

    def in_order(self, shard):
        primary = self.primary(shard)
        if primary is None:
            return False
        other, = [node for node in shard if node is not primary]
        return other.follows(primary)

    def restart(self, node):
        """With its slots as it remembers them, and no data: so not before others have
        agreed on another."""
        shard, = [s for s in self.shards if node in s]
        other, = [n for n in shard if n is not node]
        self.wait(lambda: self.primary(shard) is other, "a promotion")
        node.start()
        node.await_answer()

    def force(self, shard, draw):
        _, (other, *_) = self.peers(shard)
        words = draw.choice((("FAILOVER",), ("FAILOVER",), ("FAILOVER", "FORCE")))
        try:
            other.call("CLUSTER", *words)
        except Refused as why:
            self.log(f"no forced failover: {why}")

    def slot(self, partition):
        return self.nodes[0].call("CLUSTER", "KEYSLOT", self.key(partition))

    def shard_of(self, partition):
        slot = self.slot(partition)
        for shard in self.shards:
            primary = self.primary(shard)
            slots = primary and self.view(primary)[primary.id][3]
            for first, _, last in (s.partition("-") for s in slots or ()):
                if not first.startswith("[") and int(first) <= slot <= int(last or first):
                    return shard
        raise RuntimeError(f"nobody has partition {partition}")

    def move(self, partition, to, pause):
        """Reshards as redis-cli does; pause() is called between its steps."""
        slot = self.slot(partition)
        (source, _), (target, _) = self.primary_of(partition), self.peers(to)
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        pause()
        while True:
            keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, 10)
            if not keys:
                break
            with self.moving:
                source.call("MIGRATE", target.address, PORT, "", 0, 5000, "KEYS", *keys)
        pause()
        for node in (target, source, *(self.peers(s)[0] for s in self.shards)):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)


BEDS = {"single": Single, "sentinel": Sentinel, "cluster": Cluster}
