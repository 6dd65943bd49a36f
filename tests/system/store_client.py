"""store_client.py - what tests of the module need besides its client
(protocol_client.py): a server with the module, and ways to fill, look at and wait for it.

    with Server(folder) as server:
        part = Partition(server.client(), "k", ("table", 16, 64, 1))
        assert part.ask(read(0, b"key")) == [MISS]
"""
import ctypes
import os
import random
import signal
import subprocess

import pytest

from lab import wait_for
from protocol_client import *  # noqa: F401,F403: tests import both from here
from protocol_client import LEASED, PROTOCOL, Client, Refused, group, put, read, table_words

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SNF_BUILD", os.path.join(REPO, "build"))
MODULE = os.path.join(BUILD, "snf_store.so")
# valkey-server of bookworm-backports is tested by hand: SNF_SERVER=valkey-server.
SERVER = os.environ.get("SNF_SERVER", "redis-server")
PROBE = os.path.join(BUILD, "tests", "store-probe")

TABLE = ("test.table", 16, 64, 1)
LOUD = ("test.loud", 64, 2048, 3)
TIMED = ("test.timed", 16, 64, 1, LEASED)
RANGE = ("test.range", 16, 8208, 1)
AOF = ("--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no")


def open_words(*tables, n_partitions=1):
    """What follows the key in SNF.OPEN."""
    return (PROTOCOL, n_partitions, *(w for t in tables for w in table_words(t)))


def wait_until(condition, seconds=20, what=None):
    """What the condition answers, once that is true; an error after the deadline."""
    return wait_for(condition, seconds, what or condition)


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Server:
    """A server on a unix socket in its folder; args are more of its command line."""

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


def fill(part, n=20000, value=b"x" * 64):
    for i in range(0, n, 500):
        part.ask(*(group(i + 1, *(put(0, b"%d" % (i + j + k), value) for k in range(20)))
                   for j in range(0, 500, 20)))


def snapshot(part, keys):
    return [part.ask(*(read(0, key) for key in keys[i:i + 100]))
            for i in range(0, len(keys), 100)]


def dump(part):
    """All records of all tables, the module's own as well."""
    return {(name, record.key): record[2:] for name, table in part.tables().items()
            for _, _, record in part.scan(table["id"])}


def refused(starts, client, *words):
    with pytest.raises(Refused) as error:
        client(*words)
    assert str(error.value).startswith(starts), error.value


# --- Fixtures, for the tests that import them ------------------------------------------

needs_module = pytest.mark.skipif(not os.path.exists(MODULE),
                                  reason=MODULE + " is not built")


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path) as running:
        yield running


def follow(replica, primary):
    """Makes it a replica; a client of it, once it is up to date."""
    client = replica.client()
    client("REPLICAOF", "127.0.0.1", primary.port)
    wait_until(lambda: client.info("replication")["master_link_status"] == "up")
    return client


def caught_up(primary, replica):
    """Both clients' servers are at the same place of the stream."""
    def done():
        theirs, ours = (c.info("replication") for c in (primary, replica))
        return theirs["master_repl_offset"] == ours["master_repl_offset"]
    wait_until(done)


def on_a_port(folder, *args):
    """A server that also listens on a TCP port of its own: replication wants one."""
    folder.mkdir(exist_ok=True)
    while True:
        port = random.randrange(20000, 30000)
        try:
            server = Server(folder, "--port", str(port), "--bind", "127.0.0.1",
                            "--repl-diskless-sync-delay", "0",
                            "--repl-ping-replica-period", "1", *args)
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
