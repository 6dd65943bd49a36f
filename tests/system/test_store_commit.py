"""test_store_commit.py - writes that count when a replica has them, on real servers.
No root; TCP on 127.0.0.1.
"""
import signal
import time

import pytest

from probes import run
from store_client import (PROBE, TABLE, Partition, Refused, caught_up, follow,
                          needs_module, pair, put, refused, server, wait_until)

pytestmark = needs_module


def url(server):
    return "valkey+unix://" + server.path


def stands_still(client):
    """No group was applied for a while."""
    before = client.count("groups")
    end = time.monotonic() + 0.3
    wait_until(lambda: time.monotonic() > end)
    return client.count("groups") == before


def test_nothing_is_final_while_the_replica_stands_still(pair, run):
    one, two = pair
    follow(two, one)
    client = one.client()
    probe = run(PROBE, url(one), 20000, 60000, 1)
    for _ in range(3):
        probe.goes_on()
        two.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: stands_still(client))
        applied = probe.applied
        assert stands_still(client) and probe.applied == applied
        two.process.send_signal(signal.SIGCONT)
    done = probe.result()
    assert done["unknown"] == done["conflicts"] == 0 and done["waited"] > 1000, done


def test_who_asks_for_no_replica_waits_for_none(pair, run):
    one, two = pair
    follow(two, one)
    waits = run(PROBE, url(one) + "?name=waits", 1000000, 60000, 1)
    waits.goes_on()
    two.process.send_signal(signal.SIGSTOP)
    applied = 0
    try:
        wait_until(lambda: stands_still(one.client()))
        applied = waits.applied
        assert run(PROBE, url(one), 10000, 5000, 0).result()["waited"] == 0
        assert waits.applied == applied
    finally:
        two.process.send_signal(signal.SIGCONT)
    waits.goes_on()


def test_what_the_replica_does_not_get_in_time_is_unknown(pair, run):
    one, two = pair
    follow(two, one)
    probe = run(PROBE, url(one), 20000, 300, 1)
    probe.goes_on()
    two.process.send_signal(signal.SIGSTOP)
    groups = one.client().count("groups")
    wait_until(lambda: one.client().count("groups") > groups + 300)
    two.process.send_signal(signal.SIGCONT)
    done = probe.result()
    assert done["unknown"] > 0 and done["applied"] >= 20000, done
    assert "lost" not in probe.lines


def test_two_replicas_are_asked_for_and_one_is_there(pair, run):
    one, two = pair
    follow(two, one)
    probe = run(PROBE, url(one), 1000, 200, 2)
    wait_until(lambda: one.client().count("groups") > 200)
    assert probe.applied == 0 and probe.process.poll() is None


def test_auto_waits_if_there_is_a_replica(pair, run):
    one, two = pair
    assert run(PROBE, url(one), 2000, 5000, "auto").result()["waited"] == 0
    follow(two, one)
    wait_until(lambda: one.client().count("replicas") == 1)
    done = run(PROBE, url(one) + "?name=again", 2000, 20000, "auto").result()
    assert done["waited"] > 100 and done["unknown"] == 0, done


def test_auto_waits_as_soon_as_there_is_a_replica(pair, run):
    """Without a new connection, and from then on: also while it is gone."""
    one, two = pair
    probe = run(PROBE, url(one), 1000000, 60000, "auto")
    probe.goes_on()
    follow(two, one)
    wait_until(lambda: one.client().count("replicas") == 1)

    def waits():
        two.process.send_signal(signal.SIGSTOP)
        try:
            return stands_still(one.client())
        finally:
            two.process.send_signal(signal.SIGCONT)

    wait_until(waits)
    probe.goes_on()
    two.kill()
    wait_until(lambda: stands_still(one.client()))
    assert one.client().count("replicas") == 0 and probe.process.poll() is None


def test_a_wait_of_another_time_says_nothing(pair):
    """Between a mark and its WAIT the server loses what it answered, and is promoted
    again: its replica has all of another history."""
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    beside = Partition(one.client(), "k", TABLE)
    follow(two, one)
    caught_up(part.client, two.client())
    two.client()("REPLICAOF", "NO", "ONE")
    wait_until(lambda: part.client.count("replicas") == 0)
    assert part.write(put(0, b"lost", b"v"))
    assert beside.client("SNF.MARK", "k", beside.term) == 0
    other = Partition(two.client(), "k", TABLE)
    for i in range(100):
        assert other.write(put(0, b"%d" % i, b"v"))
    follow(one, two)
    part.client("REPLICAOF", "NO", "ONE")
    follow(two, one)
    assert beside.client("WAIT", 1, 20000) == 1
    refused("SNFSTALE", beside.client, "SNF.MARK", "k", beside.term)
    with pytest.raises(Refused, match="^SNFSTALE"):
        part.committed(1, 100)
    again = Partition(part.client, "k", TABLE)
    assert again.value(0, b"lost") is None and again.committed(1, 20000)


def test_partitions_commit_each_for_itself(pair, run):
    one, two = pair
    follow(two, one)
    done = run(PROBE, url(one), 20000, 20000, 1, 4).result()
    assert done["waited"] > 1000 and done["unknown"] == 0, done
    assert all(one.client()("EXISTS", "snf:{snf:%d}" % i) for i in range(4))
