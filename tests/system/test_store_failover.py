"""test_store_failover.py - the client in C while its primary is killed, demoted or
replaced: nothing that was final is lost, nothing happens twice.  No root; TCP on
127.0.0.1.
"""
import os
import random
import signal
import struct
import subprocess

import pytest

from probes import LEASE_PROBE, run
from store_client import (AOF, PROBE, SERVER, Client, Partition, Refused, Server,
                          caught_up, die_with_parent, follow, needs_module, pair, server,
                          wait_until)
from test_store_commit import stands_still

pytestmark = needs_module


class Address:
    """A path that leads to one server or another, as a name of a service does."""

    def __init__(self, folder, server):
        self.path = str(folder / "address")
        self.url = "valkey+unix://" + self.path
        self.lead_to(server)

    def lead_to(self, server):
        os.symlink(server.path, self.path + ".new")
        os.replace(self.path + ".new", self.path)


@pytest.fixture
def address(tmp_path, pair):
    return Address(tmp_path, pair[0])


def promote(server):
    client = server.client()
    client("REPLICAOF", "NO", "ONE")
    return client


def is_up(server):
    """A replica of the same data, after a restart."""
    return server.client().info("replication")["master_link_status"] == "up"


def test_a_killed_primary_takes_nothing_along(pair, address, run):
    """Groups that it answered and no replica had yet are asked again of the next one."""
    first, second = pair
    follow(second, first)
    probe = run(PROBE, address.url, 30000, 60000, 1)
    for _ in range(4):
        probe.goes_on()
        # From here on it gets nothing: there is no server on that port.
        second.client()("REPLICAOF", "127.0.0.1", 1)
        wait_until(lambda: stands_still(first.client()))
        first.kill()
        promote(second)
        address.lead_to(second)
        os.unlink(first.path)
        first.start()
        follow(first, second)
        first, second = second, first
    done = probe.result()
    assert done["unknown"] == done["conflicts"] == 0, done
    assert first.client().count("records") == 64


def test_a_primary_killed_at_any_time_takes_nothing_along(pair, address, run):
    first, second = pair
    follow(second, first)
    probe = run(PROBE, address.url, 60000, 60000, 1, 2)
    for _ in range(6):
        probe.goes_on(random.randrange(500, 3000))
        first.kill()
        promote(second)
        address.lead_to(second)
        os.unlink(first.path)
        first.start()
        follow(first, second)
        first, second = second, first
    done = probe.result()
    assert done["unknown"] == done["conflicts"] == 0, done


def test_a_primary_that_hands_over_loses_nothing(pair, address, run):
    """It stays up as a replica, and says so to those that still ask it."""
    first, second = pair
    follow(second, first)
    probe = run(PROBE, address.url, 20000, 60000, 1)
    for _ in range(3):
        probe.goes_on()
        old, new = first.client(), second.client()
        old("CLIENT", "PAUSE", 60000, "WRITE")
        caught_up(old, new)
        new("REPLICAOF", "NO", "ONE")
        address.lead_to(second)
        old("REPLICAOF", "127.0.0.1", second.port)
        old("CLIENT", "UNPAUSE")
        wait_until(lambda: is_up(first))
        first, second = second, first
    done = probe.result()
    assert done["unknown"] == done["conflicts"] == 0, done


def test_a_primary_that_stops_is_left_for_the_next(pair, address, run):
    """It does not answer, and does not hang up.  When it wakes, it still thinks that it
    is a primary: what it answers then is believed by nobody."""
    first, second = pair
    follow(second, first)
    probe = run(PROBE, address.url, 10000, 1000, 1)
    probe.goes_on()
    first.process.send_signal(signal.SIGSTOP)
    promote(second)
    # It has no replica of its own: who waits for one is never final on it.
    address.lead_to(second)
    wait_until(lambda: "unknown" in probe.lines)
    first.process.send_signal(signal.SIGCONT)
    client = first.client()
    client("REPLICAOF", "127.0.0.1", second.port)
    done = probe.result()
    assert done["unknown"] > 0 and done["applied"] >= 10000, done


def test_partitions_of_a_server_that_is_killed(tmp_path, run):
    with Server(tmp_path, *AOF) as server:
        probe = run(PROBE, "valkey+unix://" + server.path, 8000, 60000, 0, 4)
        for _ in range(4):
            probe.goes_on()
            server.restart()
        done = probe.result()
    assert done["unknown"] == done["conflicts"] == 0, done


# --- Sentinel --------------------------------------------------------------------------

@pytest.fixture
def sentinel(tmp_path, pair):
    """One that follows the first of the pair; its port.  With less patience it takes a
    server that it has just promoted for dead, too, and promotes what has no data yet."""
    port = random.randrange(30000, 32000)
    path = tmp_path / "sentinel.conf"
    path.write_text("port %d\nbind 127.0.0.1\ndir %s\n"
                    "sentinel monitor store 127.0.0.1 %d 1\n"
                    "sentinel down-after-milliseconds store 1000\n"
                    "sentinel failover-timeout store 3000\n"
                    % (port, tmp_path, pair[0].port))
    follow(pair[1], pair[0])
    with open(tmp_path / "sentinel.log", "ab") as log:
        process = subprocess.Popen([SERVER, str(path), "--sentinel"], stdout=log,
                                   stderr=log, preexec_fn=die_with_parent)

    def knows_both():
        try:
            client = Client(("127.0.0.1", port))
            known = client("SENTINEL", "REPLICAS", "store")
            client.close()
            return known
        except (OSError, Refused):
            return False

    wait_until(knows_both)
    yield port
    process.kill()
    process.wait()


def is_primary(server):
    """Sentinel cuts a server's clients when it promotes it: ask with a new one."""
    try:
        return server.client().info("replication")["role"] == "master"
    except (OSError, Refused):
        return False


def told(sentinel):
    """The port of the primary, as Sentinel tells it."""
    client = Client(("127.0.0.1", sentinel))
    port = int(client("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "store")[1])
    client.close()
    return port


def test_a_failover_of_sentinel_is_followed(pair, sentinel, run):
    first, second = pair
    url = "valkey+sentinel://127.0.0.1:%d/store" % sentinel
    probe = run(PROBE, url, 10000, 60000, 1, 2)
    probe.goes_on()
    first.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_primary(second), 60)
    # The one that stands still wakes up as a primary, until it is told.
    first.process.send_signal(signal.SIGCONT)
    done = probe.result()
    assert done["unknown"] == done["conflicts"] == 0, done


def test_a_failover_of_sentinel_loses_nothing_that_is_final(pair, sentinel, run):
    first, second = pair
    url = "valkey+sentinel://127.0.0.1:%d/store" % sentinel
    probe = run(PROBE, url, 20000, 60000, 1)
    probe.goes_on()
    first.kill()
    # Started before Sentinel tells otherwise, it would be an empty primary.
    wait_until(lambda: told(sentinel) == second.port, 60)
    # Nor may it be promoted while it is filled: on a busy machine the other one is silent.
    client = Client(("127.0.0.1", sentinel))
    client("SENTINEL", "SET", "store", "down-after-milliseconds", "60000")
    client.close()
    os.unlink(first.path)
    first.start()
    done = probe.result()
    assert done["unknown"] == done["conflicts"] == 0, done


# --- Leases ----------------------------------------------------------------------------

N_RECORDS = 100


def settled(*probes):
    return [line.split()[1] for probe in probes for line in list(probe.lines)
            if line.startswith("settled ")]


def fired(server):
    """How often each record's time was acted on."""
    counts = {}
    for i in range(2):
        part = Partition(server.client(), "snf:{snf:%d}" % i, ("probe.fired", 4, 8, 1),
                         n_partitions=2)
        for key in range(i, N_RECORDS, 2):
            value = part.value(part.ids[0], struct.pack("<I", key))
            counts[key] = struct.unpack("<q", value)[0] if value else 0
    return counts


def test_leases_reach_those_that_sleep_and_fire_once(server, run):
    url = "valkey+unix://" + server.path
    others = [run(LEASE_PROBE, url, 0, 0, 5000, "settle") for _ in range(2)]
    probes = others + [run(LEASE_PROBE, url, N_RECORDS, 1500, 5000, "settle")]
    wait_until(lambda: len(settled(*probes)) >= N_RECORDS)
    assert sorted(map(int, settled(*probes))) == list(range(N_RECORDS))
    assert set(fired(server).values()) == {1}


def test_the_leases_of_one_that_dies_go_to_another(server, run):
    url = "valkey+unix://" + server.path
    holds = run(LEASE_PROBE, url, N_RECORDS, 300, 5000, "hold")
    wait_until(lambda: any(line.startswith("leased ") for line in holds.lines))
    probe = run(LEASE_PROBE, url, 0, 0, 5000, "settle")
    holds.kill()
    wait_until(lambda: len(settled(probe)) >= N_RECORDS)
    assert set(fired(server).values()) == {1}


def test_leases_survive_a_failover_and_fire_once(pair, address, run):
    first, second = pair
    follow(second, first)
    probes = [run(LEASE_PROBE, address.url, n, 1000, 20000, "settle", 1)
              for n in (N_RECORDS, 0)]
    wait_until(lambda: settled(*probes))
    first.kill()
    promote(second)
    address.lead_to(second)
    os.unlink(first.path)
    first.start()
    follow(first, second)
    wait_until(lambda: set(fired(second).values()) == {1}, 60)
    assert second.client().count("due") == 0
