"""servers.py - stores of several servers in a lab: a primary with replicas that sentinels
watch, or a cluster.  All live in one namespace and are told apart by their ports."""
import os
import re
import socket

from lab import BUILD, wait_for

DOWN_MS = 500  # So long a server is silent before others look for a new primary.
MAX_HOSTS = 8  # In a URL.


class Server:
    """A server on a TCP port.  'words' are further arguments."""

    def __init__(self, lab, netns, ip, port, *words, module=True, server="redis-server"):
        self.lab, self.netns, self.ip, self.port = lab, netns, ip, port
        self.name = f"server-{port}"
        self.home = f"{lab.dir}/{self.name}"
        os.mkdir(self.home)
        self.argv = [server, *words, "--port", str(port), "--bind", ip,
                     "--protected-mode", "no", "--dir", self.home, "--daemonize", "no"]
        if module:
            self.argv += ["--save", "", "--repl-diskless-sync-delay", "0",
                          "--loadmodule", f"{BUILD}/snf_store.so"]
        self.start()

    def start(self):
        self.process = self.lab.start(self.name, self.argv, self.netns)
        wait_for(self.answers, 30, f"answer of {self.name}")

    def answers(self):
        if not self.process.alive:
            raise RuntimeError(f"{self.name} ended:\n{self.process.log()}")
        try:
            return self.cli("PING").startswith("+PONG")
        except OSError:
            return False

    def cli(self, *words):
        """The raw answer to a command; of a long one what arrives with its first line."""
        client = self.lab.inside(self.netns, socket.socket)
        with client:
            client.settimeout(5)
            client.connect((self.ip, self.port))
            command = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in
                               (str(word).encode() for word in words))
            client.sendall(b"*%d\r\n" % len(words) + command)
            text = client.recv(65536)
            while text[:1] == b"$" and text[:2] != b"$-" and \
                    len(text) < int(text[1:text.index(b"\r\n")]) + text.index(b"\r\n") + 4:
                text += client.recv(65536)
            return text.decode(errors="replace")

    def field(self, section, name):
        match = re.search(rf"^{name}:(\S*)\r$", self.cli("INFO", section), re.M)
        return match and match[1]

    def is_primary(self):
        try:
            return self.process.alive and self.field("replication", "role") == "master"
        except OSError:
            return False

    def synced(self):
        """Whether this is a replica that follows its primary."""
        return self.field("replication", "master_link_status") == "up"


class Watched:
    """A primary and replicas under three sentinels."""

    def __init__(self, lab, netns, ip, n_replicas=1, first_port=7000, service="store"):
        self.servers = [Server(lab, netns, ip, first_port)]
        self.servers += [Server(lab, netns, ip, first_port + 1 + i,
                                "--replicaof", f"{ip} {first_port}")
                         for i in range(n_replicas)]
        for replica in self.servers[1:]:
            wait_for(replica.synced, 30, "a synchronised replica")
        ports = range(first_port + 100, first_port + 103)
        self.sentinels = [self._sentinel(lab, netns, ip, port, service, first_port)
                          for port in ports]
        hosts = ",".join(f"{ip}:{port}" for port in ports)
        self.url = f"valkey+sentinel://{hosts}/{service}"
        for sentinel in self.sentinels:
            wait_for(lambda: f"slaves={n_replicas},sentinels=3" in
                     sentinel.cli("INFO", "sentinel"), 30, "sentinels that agree")

    @staticmethod
    def _sentinel(lab, netns, ip, port, service, primary):
        path = f"{lab.dir}/sentinel-{port}.conf"
        with open(path, "w") as file:
            file.write(f"sentinel monitor {service} {ip} {primary} 2\n"
                       f"sentinel down-after-milliseconds {service} {DOWN_MS}\n"
                       f"sentinel failover-timeout {service} 5000\n")
        return Server(lab, netns, ip, port, path, "--sentinel", module=False)

    def primary(self):
        """The one that the sentinels hold for it."""
        port = self.sentinels[0].cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "store")
        return next(s for s in self.servers if f"\r\n{s.port}\r\n" in port)


class Cluster:
    """Primaries with a replica each."""

    def __init__(self, lab, netns, ip, n_primaries=3, n_replicas=1, first_port=7200):
        self.lab, self.netns = lab, netns
        n = n_primaries * (1 + n_replicas)
        self.servers = [Server(lab, netns, ip, first_port + i, "--cluster-enabled", "yes",
                               "--cluster-node-timeout", str(DOWN_MS))
                        for i in range(n)]
        where = [f"{ip}:{s.port}" for s in self.servers]
        self.redis_cli("--cluster", "create", *where, "--cluster-replicas", n_replicas,
                       "--cluster-yes")
        self.url = f"valkey+cluster://{','.join(where[:MAX_HOSTS])}/snf"
        wait_for(self.is_whole, 60, "a whole cluster")

    def redis_cli(self, *words):
        return self.lab.run("redis-cli", *map(str, words), netns=self.netns)

    def is_whole(self):
        alive = [s for s in self.servers if s.process.alive]
        return all(s.field("cluster", "cluster_enabled") == "1" and
                   "cluster_state:ok" in s.cli("CLUSTER", "INFO") and
                   (s.is_primary() or s.synced()) for s in alive)

    def slot(self, key):
        return int(self.servers[0].cli("CLUSTER", "KEYSLOT", key)[1:])

    def owner(self, slot):
        """The server that holds a slot."""
        for server in self.servers:
            if not server.is_primary():
                continue
            lines = server.cli("CLUSTER", "NODES").splitlines()
            mine = next(line for line in lines if "myself" in line)
            for word in mine.split()[8:]:
                first, _, last = word.partition("-")
                if first.isdigit() and int(first) <= slot <= int(last or first):
                    return server
        return None

    def node_id(self, server):
        return server.cli("CLUSTER", "MYID").split("\r\n")[1]

    def move(self, slot, to):
        """Moves a slot with what is in it, as a reshard does."""
        source = self.owner(slot)
        source_id, to_id = self.node_id(source), self.node_id(to)
        to.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", to_id)
        keys = source.cli("CLUSTER", "GETKEYSINSLOT", slot, 100).split("\r\n")[2::2]
        for key in filter(None, keys):
            def moved():
                answer = source.cli("MIGRATE", to.ip, to.port, key, 0, 30000)
                # On a busy machine the nodes may have lost sight of each other.
                if not answer.startswith(("+OK", "-IOERR")) and "CLUSTERDOWN" not in answer:
                    raise RuntimeError(f"MIGRATE of {key}: {answer}")
                return answer.startswith("+OK")
            wait_for(moved, 10, f"{key} at its new server")
        for server in (to, source, *self.servers):
            if server.is_primary():
                server.cli("CLUSTER", "SETSLOT", slot, "NODE", to_id)
