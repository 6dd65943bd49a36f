"""test_functions_replicas.py - connections through two instances whose store has lost its
only replica, or fails over to one that has none: what is open goes on."""
import os
import signal
import time

import pytest

import peers
from lab import missing_rights, wait_for
from peers import OUTSIDE, connect
from servers import Server

FIREWALL = "firewall: {}\n"
NAT = "nat: {addresses: [203.0.113.1]}\n"


class Pair:
    """A primary and its replica; the address leads to the one or the other."""

    def __init__(self, lab):
        lab.host("stores")
        self.address = f"{lab.dir}/address"
        self.url = f"valkey+unix://{self.address}"
        self.paths = [f"{lab.dir}/store-{i}" for i in range(2)]
        self.servers = [Server(lab, "stores", "127.0.0.1", 7000 + i, "--unixsocket", path,
                               *(["--replicaof", "127.0.0.1 7000"] if i else []))
                        for i, path in enumerate(self.paths)]
        self.lead_to(0)
        wait_for(self.servers[1].synced, 30, "a synchronised replica")

    def lead_to(self, i):
        os.symlink(self.paths[i], self.address + ".new")
        os.replace(self.address + ".new", self.address)

    def fail_over(self):
        self.servers[0].process.kill(signal.SIGKILL)
        self.servers[1].cli("REPLICAOF", "NO", "ONE")
        self.lead_to(1)

    def cli(self, *words):
        return next(s for s in self.servers if s.is_primary()).cli(*words).strip()


@pytest.fixture(params=[("firewall", FIREWALL), ("[firewall, nat]", FIREWALL + NAT)],
                ids=["firewall", "chain"])
def net(request):
    if missing_rights():
        pytest.skip(missing_rights())
    with peers.opened() as net:
        net.store = Pair(net.lab)
        net.use(peers.config(request.param[1], request.param[0]))
        net.want = peers.web(net, "outside")
        yield net


def survives(net, fault):
    """They take a second by themselves; if windows had to wait, it would be a dozen more."""
    start = time.monotonic()
    peers.downloads_survive(net, "outside", "inside", [OUTSIDE[4]], net.want, fault=fault)
    assert time.monotonic() - start < 8


def test_what_is_open_needs_no_replica(net):
    """[U8, U29] Nor does a window that moves.  Packets that open something are
    dropped; sent again, they find what they wrote at the primary."""
    replica = net.store.servers[1]
    assert net.counters()["uncommitted"] == 0
    survives(net, lambda: replica.process.kill(signal.SIGKILL))
    lost = net.dropped("store_lost")
    connect(net, "inside", OUTSIDE[4], 80).close()
    assert net.dropped("store_lost") > lost
    replica.start()
    wait_for(replica.synced, 30, "a synchronised replica")
    connect(net, "inside", OUTSIDE[4], 80).close()


def test_what_is_open_survives_a_failover_to_the_last_server(net):
    """[U8, U29] One that has no replica of its own."""
    survives(net, net.store.fail_over)
