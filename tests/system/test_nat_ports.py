"""test_nat_ports.py - a million outside ports for four clients at once, until the pool is
all but empty: none twice, none refused that was free, and the last as cheap as the first.
No root, no network.
"""
import array
import os

import pytest

from probes import run
from store_client import BUILD, Server, needs_module

pytestmark = needs_module

PORTS_PROBE = os.path.join(BUILD, "tests", "ports-probe")
CLIENTS = 4
ADDRESSES = 16
PORTS = 63130
ALL = ADDRESSES * PORTS
TOTAL = 1_000_000
# Where the price is measured: from that part of the pool on, so many ports.
SAMPLE = 50_000
CHEAP = 10
DEAR = 94


@pytest.fixture
def server(tmp_path):
    """On one core, where its loop sleeps when it has nothing to do: its time is work."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        server = Server(tmp_path)
    finally:
        os.sched_setaffinity(0, cores)
    with server:
        yield server


class Pool:
    def __init__(self, server, folder, run):
        self.server, self.folder, self.run = server, folder, run
        self.taken = 0
        self.phase = 0

    def seconds(self):
        """Of the server's, spent so far."""
        with open(f"/proc/{self.server.process.pid}/schedstat") as stat:
            return int(stat.read().split()[0]) / 1e9

    def ask(self, counts):
        """Has each client take so many; returns what they say."""
        self.phase += 1
        probes = [self.run(PORTS_PROBE, f"valkey+unix://{self.server.path}", count,
                           ADDRESSES, PORTS, self.phase * CLIENTS + i,
                           os.path.join(self.folder, f"ports-{i}"))
                  for i, count in enumerate(counts)]
        return [probe.result() for probe in probes]

    def take(self, until):
        """Has ports taken until there are so many; returns what one cost the server, in
        microseconds, and the conflicts."""
        each, rest = divmod(until - self.taken, CLIENTS)
        start = self.seconds()
        results = self.ask([each + (i < rest) for i in range(CLIENTS)])
        spent = self.seconds() - start
        assert sum(result["got"] for result in results) == until - self.taken
        assert sum(result["none"] for result in results) == 0
        assert sum(result["too_many"] for result in results) == 0
        cost = spent * 1e6 / (until - self.taken)
        self.taken = until
        return cost, sum(result["conflicts"] for result in results)

    def all(self):
        """Every port that somebody got."""
        ports = array.array("I")
        for i in range(CLIENTS):
            path = os.path.join(self.folder, f"ports-{i}")
            with open(path, "rb") as file:
                ports.fromfile(file, os.path.getsize(path) // 4)
        return ports


def test_a_million_ports_for_four_clients(server, tmp_path, run, record_property):
    """[B3, B5; U15]"""
    pool = Pool(server, str(tmp_path), run)
    cost = {}
    for percent in (CHEAP, DEAR):
        pool.take(ALL * percent // 100)
        cost[percent], conflicts = pool.take(pool.taken + SAMPLE)
        used = 100 * pool.taken / ALL
        line = f"until {used:.1f} %: {cost[percent]:.2f} us, {conflicts} conflicts"
        print(line)
        record_property(f"until_{used:.0f}_percent", line)
    pool.take(TOTAL)
    ports = pool.all()
    assert len(ports) == TOTAL
    assert len(set(ports)) == TOTAL
    assert all(port >> 16 < ADDRESSES and port & 0xffff < PORTS for port in ports)
    # Much less, in fact; but the machine may have other things to do meanwhile.
    assert cost[DEAR] < 3 * cost[CHEAP]


def test_the_last_port_is_found(server, tmp_path, run):
    """[B3, B5; U13, U15]"""
    pool = Pool(server, str(tmp_path), run)
    pool.take(ALL - 1000)
    # More at once than there are left: whoever gets none is told so, and nobody else.
    results = pool.ask([500] * CLIENTS)
    assert sum(result["got"] for result in results) == 1000
    assert sum(result["none"] for result in results) == 500 * CLIENTS - 1000
    ports = pool.all()
    assert len(set(ports)) == len(ports) == ALL
