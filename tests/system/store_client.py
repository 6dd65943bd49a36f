"""store_client.py - a server with the module, and a client of it written from the layout
in frame.h alone: what it and the module agree on is the protocol, not shared code.

    with Server(folder) as server:
        client = server.client()
        partition = Partition(client, "k", ("table", 16, 64, 1))
        assert partition.ask(read(0, b"key")) == [MISS]
"""
import ctypes
import itertools
import os
import random
import signal
import socket
import struct
import subprocess

import pytest

from lab import wait_for

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SNF_BUILD", os.path.join(REPO, "build"))
MODULE = os.path.join(BUILD, "snf_store.so")
# valkey-server of bookworm-backports is tested by hand: SNF_SERVER=valkey-server.
SERVER = os.environ.get("SNF_SERVER", "redis-server")
PROBE = os.path.join(BUILD, "tests", "store-probe")

TABLE = ("test.table", 16, 64, 1)
LOUD = ("test.loud", 64, 2048, 3)
AOF = ("--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no")

MISS = (0,)
APPLIED = (2,)
CONFLICT = (3,)
REFUSED = (4,)


def wait_until(condition, seconds=20, what=None):
    """What the condition answers, once that is true; an error after the deadline."""
    return wait_for(condition, seconds, what or condition)


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Refused(Exception):
    """An error reply."""


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def send(self, *words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.socket.sendall(b"*%d\r\n" % len(words) +
                            b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))

    def receive(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.receive() for _ in range(int(rest))]
        return rest.decode()

    def __call__(self, *words):
        self.send(*words)
        return self.receive()

    def info(self, section):
        lines = self("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def count(self, name):
        return int(self.info("snf")["snf_" + name])


class Server:
    """A server on a unix socket in its folder; args are more words of its command line."""

    def __init__(self, folder, *args):
        self.folder = str(folder)
        self.path = os.path.join(self.folder, "socket")
        self.args = args
        self.clients = []
        self.start()

    def start(self):
        self.log = open(os.path.join(self.folder, "log"), "ab")
        self.process = subprocess.Popen(
            [SERVER, "--port", "0", "--unixsocket", self.path, "--dir",
             self.folder, "--save", "", "--loadmodule", MODULE, *self.args],
            stdout=self.log, stderr=self.log, preexec_fn=die_with_parent)
        wait_until(self.answers, what="the server to start")

    def answers(self):
        if self.process.poll() is not None:
            with open(os.path.join(self.folder, "log"), errors="replace") as log:
                raise RuntimeError("the server ended: " + log.read()[-2000:])
        try:
            client = Client(self.path)
            client("PING")
            client.close()
            return True
        except (OSError, Refused):
            return False

    def client(self):
        self.clients.append(Client(self.path))
        return self.clients[-1]

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait()
        for client in self.clients:
            client.close()
        self.clients = []
        self.log.close()

    def restart(self):
        self.kill()
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *why):
        if self.process.poll() is None:
            self.kill()


def pad(data):
    return data + bytes(-len(data) % 8)


def read(table, key, touch=True):
    return pad(bytes((1 if touch else 2, table, len(key), 0)) + key)


def check(table, key, version):
    return pad(struct.pack("<BBBBIQ", 4, table, len(key), 0, 0, version) + key)


def put(table, key, value, idle_ms=0, form=1):
    head = struct.pack("<BBBBHHII", 5, table, len(key), form, len(value), 0, idle_ms, 0)
    return head + pad(value) + pad(key)


def delete(table, key):
    return pad(bytes((6, table, len(key), 0)) + key)


def group(version, *ops):
    return struct.pack("<BBHIQ", 3, len(ops), 0, 0, version) + b"".join(ops)


def frame(generation, client, number, *ops):
    body = b"".join(ops)
    return struct.pack("<IIQQQ", 0x01464e53, 32 + len(body), generation, client,
                       number) + body


def answers(reply, number):
    """(2,) and the like, and (1, format, version, value) for a hit."""
    magic, length, echoed = struct.unpack_from("<IIQ", reply)
    assert (magic, length, echoed) == (0x01524e53, len(reply), number)
    at, found = 16, []
    while at < len(reply):
        answer, form, size = struct.unpack_from("<BBH", reply, at)
        if answer != 1:
            found.append((answer,))
            at += 8
            continue
        version, = struct.unpack_from("<Q", reply, at + 8)
        found.append((1, form, version, reply[at + 16:at + 16 + size]))
        at += 16 + len(pad(bytes(size)))
    assert at == len(reply)
    return found


class Partition:
    """One client of a partition, with its id and the count of its frames."""

    def __init__(self, client, key, *tables, who=None):
        self.client, self.key = client, key
        words = [word for table in tables for word in table]
        self.generation, *self.ids = client("SNF.OPEN", key, 1, *words)
        self.who = who or random.getrandbits(64)
        self.numbers = itertools.count(1)
        self.versions = itertools.count(random.getrandbits(48))

    def frame(self, *ops):
        self.number = next(self.numbers)
        return frame(self.generation, self.who, self.number, *ops)

    def send(self, data):
        return self.client("SNF.FRAME", self.key, data)

    def ask(self, *ops):
        reply = self.send(self.frame(*ops))
        return answers(reply, self.number)

    def write(self, *ops):
        """One group; its version, or None if it was not applied."""
        version = next(self.versions)
        return version if self.ask(group(version, *ops)) == [APPLIED] else None

    def value(self, table, key, touch=True):
        answer, = self.ask(read(table, key, touch))
        return answer[3] if answer[0] == 1 else None


def fill(part, n=20000, value=b"x" * 64):
    for i in range(0, n, 500):
        part.ask(*(group(i + 1, *(put(0, b"%d" % (i + j + k), value) for k in range(20)))
                   for j in range(0, 500, 20)))


def snapshot(part, keys):
    return [part.ask(*(read(0, key) for key in keys[i:i + 100]))
            for i in range(0, len(keys), 100)]


def refused(starts, client, *words):
    with pytest.raises(Refused) as error:
        client(*words)
    assert str(error.value).startswith(starts), error.value


# --- Fixtures, for the tests that import them --------------------------------------------

needs_module = pytest.mark.skipif(not os.path.exists(MODULE),
                                  reason=MODULE + " is not built")


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path) as running:
        yield running


def on_a_port(folder):
    """A server that also listens on a TCP port of its own: replication wants one."""
    folder.mkdir(exist_ok=True)
    while True:
        port = random.randrange(20000, 30000)
        try:
            server = Server(folder, "--port", str(port), "--bind", "127.0.0.1",
                            "--repl-diskless-sync-delay", "0",
                            "--repl-ping-replica-period", "1")
            server.port = port
            return server
        except RuntimeError as error:
            if "in use" not in str(error):
                raise


@pytest.fixture
def tcp_server(tmp_path):
    with on_a_port(tmp_path) as server:
        yield server


@pytest.fixture
def pair(tmp_path):
    with on_a_port(tmp_path / "one") as one, on_a_port(tmp_path / "two") as two:
        yield one, two
