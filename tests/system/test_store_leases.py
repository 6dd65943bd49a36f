"""test_store_leases.py - idle times, and what becomes of records whose time has passed:
deletion, or a lease.  No root, no network.
"""
import struct
import threading
import time

import pytest

from store_client import (APPLIED, CONFLICT, LEASED, TABLE, TIMED, Client, Partition, Refused,
                          group, leases, needs_module, pair, put, read, refused, server,
                          settle, touch, wait_until)

pytestmark = needs_module


@pytest.fixture
def part(server):
    return Partition(server.client(), "k", TABLE, TIMED)


# --- Idle times ------------------------------------------------------------------------

def test_an_idle_record_goes_by_itself(part):
    part.write(put(0, b"a", b"1", 300), put(0, b"b", b"1"))
    assert part.value(0, b"a", touch=False) == b"1"
    wait_until(lambda: part.client.count("expired") == 1)
    assert part.client.count("records") == 1
    assert part.value(0, b"a") is None and part.value(0, b"b") == b"1"


def test_a_record_in_use_stays(part):
    part.write(put(0, b"a", b"1", 2000), put(0, b"peeked", b"1", 2000))
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert part.value(0, b"a") == b"1"
        part.value(0, b"peeked", touch=False)
    wait_until(lambda: part.value(0, b"peeked", touch=False) is None)


def test_many_expire_soon_and_without_frames(part):
    for i in range(200):
        part.write(*(put(0, struct.pack("<HH", i, j), b"1", 500) for j in range(32)))
    assert part.client.count("records") > 0
    wait_until(lambda: part.client.count("expired") == 6400)
    assert part.client.count("records") == 0


def test_a_touch_starts_the_idle_time_anew_without_an_answer(part):
    part.write(put(0, b"a", b"1", 1000), put(0, b"left", b"1", 1000))
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert part.ask(touch(0, b"a")) == []
    assert part.value(0, b"a") == b"1" and part.value(0, b"left") is None


# --- Leases ----------------------------------------------------------------------------

def test_what_is_due_is_leased_once_and_settled_once(part):
    version = part.write(put(1, b"a", b"v", 200))
    lease, = part.due(timeout_ms=5000)
    assert lease == (1, b"a", 1, version, b"v")
    assert part.due() == []
    assert part.ask(read(1, b"a", touch=False)) == [(1, 1, version, b"v")]
    assert part.group(settle(1, b"a", version + 1)) == CONFLICT
    assert part.group(settle(1, b"a", version), put(0, b"done", b"1")) == APPLIED
    assert part.group(settle(1, b"a", version), put(0, b"done", b"2")) == CONFLICT
    assert part.value(0, b"done") == b"1" and part.value(1, b"a") is None
    assert [part.client.count(n) for n in ("leased", "settled", "due")] == [1, 1, 0]


def test_what_is_not_due_cannot_be_settled(part):
    version = part.write(put(1, b"a", b"v", 60000), put(1, b"for ever", b"v"))
    assert part.group(settle(1, b"a", version)) == CONFLICT
    assert part.group(settle(1, b"for ever", version)) == CONFLICT
    assert part.group(settle(1, b"absent", version)) == CONFLICT


def test_a_touch_ends_being_due(part):
    version = part.write(put(1, b"a", b"v", 300))
    lease, = part.due(timeout_ms=5000)
    assert part.value(1, b"a") == b"v"
    assert part.group(settle(1, b"a", version)) == CONFLICT
    lease, = part.due(timeout_ms=5000)
    assert part.group(settle(1, b"a", lease.version)) == APPLIED


def test_a_lease_that_is_not_settled_is_given_to_another(part, server):
    version = part.write(put(1, b"a", b"v", 100))
    part.due(timeout_ms=5000)
    start = time.monotonic()
    other = Partition(server.client(), "k", TABLE, TIMED)
    lease, = other.due(timeout_ms=5000)
    assert 0.8 < time.monotonic() - start < 2
    assert other.group(settle(1, b"a", lease.version)) == APPLIED
    assert part.group(settle(1, b"a", version)) == CONFLICT


def test_a_settled_record_may_live_on_as_another(part):
    version = part.write(put(1, b"a", b"v", 100))
    part.due(timeout_ms=5000)
    assert part.group(settle(1, b"a", version), put(1, b"a", b"w", 60000)) == APPLIED
    assert part.value(1, b"a") == b"w"
    assert part.group(settle(1, b"a", version)) == CONFLICT


def test_nothing_due_is_an_empty_message_when_the_time_is_over(part):
    start = time.monotonic()
    assert part.due(timeout_ms=300) == []
    assert 0.3 <= time.monotonic() - start < 1
    assert part.due() == []


class Waiters:
    """Connections with an SNF.DUE under way."""

    def __init__(self, server, part):
        self.part, self.client = part, server.client
        self.waiting = []

    def add(self, most=1, timeout_ms=60000):
        client = self.client()
        client.send("SNF.DUE", "k", self.part.term, most, timeout_ms)
        self.waiting.append(client)
        wait_until(lambda: self.part.client.count("waiters") == len(self.waiting))
        return client


@pytest.fixture
def waiters(server, part):
    return Waiters(server, part)


def due_records(part, n, idle_ms=200):
    for i in range(0, n, 20):
        part.write(*(put(1, b"%d" % j, b"v", idle_ms) for j in range(i, min(n, i + 20))))


def test_waiters_are_served_in_the_order_in_which_they_came(part, waiters):
    clients = [waiters.add() for _ in range(5)]
    for i, client in enumerate(clients):
        part.write(put(1, b"%d" % i, b"v", 100))
        lease, = leases(client.receive())
        assert lease.key == b"%d" % i
    assert part.client.count("waiters") == 0


def test_leases_go_to_those_who_asked_for_their_table(server):
    part = Partition(server.client(), "k", TIMED, ("test.other", 16, 64, 1, LEASED))
    waiting = [server.client() for _ in range(3)]
    for client, ids in zip(waiting, ((0,), (1,), ())):
        client.send("SNF.DUE", "k", part.term, 10, 60000, *ids)
        wait_until(lambda: part.client.count("waiters") == waiting.index(client) + 1)
    part.write(put(1, b"other", b"v", 100))
    assert [r.key for r in leases(waiting[1].receive())] == [b"other"]
    part.write(put(1, b"more", b"v", 100))
    assert [r.key for r in leases(waiting[2].receive())] == [b"more"]
    part.write(put(0, b"timed", b"v", 100))
    assert [r.key for r in leases(waiting[0].receive())] == [b"timed"]
    part.write(put(0, b"timed", b"v", 100), put(1, b"other", b"v", 100))
    for table, keys in (1, {b"other", b"more"}), (0, {b"timed"}):
        found = set()
        wait_until(lambda: found.update(r.key for r in part.due(tables=(table,)))
                   or found)
        assert found <= keys


def test_a_waiter_gets_no_more_than_it_asked_for(part, waiters):
    clients = [waiters.add(most=10) for _ in range(5)]
    due_records(part, 45)
    found = [leases(client.receive()) for client in clients]
    assert max(map(len, found)) <= 10
    keys = {lease.key for some in found for lease in some}
    assert len(keys) == sum(map(len, found)) and min(map(len, found)) > 0


def test_a_waiter_that_went_away_takes_no_lease_with_it(part, waiters):
    clients = [waiters.add() for _ in range(6)]
    for client in clients[:5]:
        client.close()
    part.write(put(1, b"a", b"v", 100))
    start = time.monotonic()
    lease, = leases(clients[5].receive())
    assert lease.key == b"a" and time.monotonic() - start < 0.9
    assert part.client.count("leased") == 1


def test_a_waiter_that_is_killed_as_it_is_woken_takes_no_lease_with_it(part, server):
    """In one transaction: what is due is found, and its waiter killed."""
    killer = server.client()
    for i in range(20):
        first, second = Client(server.path), Client(server.path)
        number = first("CLIENT", "ID")
        part.write(put(1, b"%d" % i, b"v", 100))
        for client in (first, second):
            client.send("SNF.DUE", "k", part.term, 1, 60000)
        killer("MULTI")
        killer("SNF.FRAME", "k", part.frame(touch(0, b"x")))
        killer("CLIENT", "KILL", "ID", number)
        killer("EXEC")
        lease, = leases(second.receive())
        assert lease.key == b"%d" % i
        part.write(settle(1, lease.key, lease.version))
        first.close()
        second.close()
    wait_until(lambda: part.client.count("waiters") == 0)
    assert part.client.count("settled") == 20


def test_waiters_of_a_partition_that_goes_are_told_so(part, waiters):
    clients = [waiters.add() for _ in range(3)]
    part.client("DEL", "k")
    for client in clients:
        with pytest.raises(Refused, match="SNFSTALE"):
            client.receive()
    Partition(part.client, "k", TABLE, TIMED)
    refused("SNFSTALE", part.client, "SNF.DUE", "k", part.term + 1, 1, 100)


def test_waiters_of_a_partition_that_is_replaced_are_told_so(part, waiters):
    client = waiters.add()
    part.client("MULTI")
    part.client("DEL", "k")
    part.client("SNF.OPEN", "k", 2, 1, "other", 16, 16, 1, 1, 0)
    part.client("EXEC")
    other = Partition(part.client, "k", ("other", 16, 16, 1, 1))
    other.write(put(0, b"a", b"v", 100))
    with pytest.raises(Refused, match="SNFSTALE"):
        client.receive()
    assert len(other.due(timeout_ms=5000)) == 1


def test_it_does_not_block_in_transactions_and_scripts(part):
    part.client("MULTI")
    part.client("SNF.DUE", "k", part.term, 1, 1000)
    part.client.send("EXEC")
    assert part.client.file.readline() == b"*1\r\n"
    assert part.client.file.readline().startswith(b"-ERR SNFBLOCK")
    refused("ERR SNFBLOCK", part.client, "EVAL",
            "return redis.call('SNF.DUE', KEYS[1], ARGV[1], 1, 1000)", 1, "k", part.term)


def test_a_demoted_server_lets_its_waiters_go(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE, TIMED)
    waiter = one.client()
    waiter.send("SNF.DUE", "k", part.term, 1, 60000)
    wait_until(lambda: part.client.count("waiters") == 1)
    part.client("REPLICAOF", "127.0.0.1", two.port)
    with pytest.raises(Refused, match="UNBLOCKED|SNFSTALE"):
        waiter.receive()
    assert part.client.count("waiters") == 0


@pytest.mark.parametrize("n", [1, 16])
def test_expiry_and_leases_keep_up_with_full_load(server, n):
    """Each is pushed within a second of its time, while others send all they can."""
    stop, found = threading.Event(), []

    def parts():
        client = Client(server.path)
        return [Partition(client, "k%d" % i, TABLE, TIMED, n_partitions=n)
                for i in range(n)]

    def load():
        mine = parts()
        while not stop.is_set():
            for part in mine * (16 // n):
                part.client.send("SNF.FRAME", part.key, part.frame(
                    *(read(0, b"%d" % i) for i in range(300))))
            for part in mine * (16 // n):
                part.client.receive()
        part.client.close()

    def lease(part):
        while not stop.is_set():
            some = part.due(timeout_ms=200)
            found.extend((time.monotonic(), part.key, lease.key) for lease in some)
            part.ask(*(group(next(part.versions), settle(1, lease.key, lease.version))
                       for lease in some))
        part.client.close()

    threads = [threading.Thread(target=load) for _ in range(2)]
    for i in range(n):
        part = Partition(Client(server.path), "k%d" % i, TABLE, TIMED, n_partitions=n)
        threads.append(threading.Thread(target=lease, args=(part,)))
    for thread in threads:
        thread.start()
    written, writers = {}, parts()
    for i in range(200):
        part = writers[i % n]
        keys = [b"%d-%d" % (i, j) for j in range(20)]
        part.write(*(put(1, key, b"v", 1000) for key in keys))
        written.update(((part.key, key), time.monotonic()) for key in keys)
    wait_until(lambda: len(found) >= 4000, 60)
    stop.set()
    for thread in threads:
        thread.join()
    part.client.close()
    assert len(found) == len(written) == len({(name, key) for _, name, key in found})
    late = [when - written[name, key] - 1 for when, name, key in found]
    print("pushed after", min(late), max(late))
    assert min(late) > -0.1 and max(late) < 1


def test_many_that_are_due_at_once_do_not_hold_up_frames(part):
    due_records(part, 20000, 1000)
    slowest = 0
    end = time.monotonic() + 4
    while time.monotonic() < end:
        start = time.monotonic()
        part.value(0, b"a")
        slowest = max(slowest, time.monotonic() - start)
    assert part.tables()["test.timed"]["due"] == 20000
    assert float(part.client.info("snf")["snf_frame_usec_max"]) < 20000
    print("slowest", slowest)
