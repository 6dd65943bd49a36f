"""test_store_replicas.py - the store as its replicas see it: what they get, what a commit
means, and what a change of roles ends.  No root; TCP on 127.0.0.1.
"""
import random
import signal
import socket
import struct
import threading
import time

import pytest

from store_client import (APPLIED, EVICT, LOUD, RANGE, TABLE, TIMED, Client, Partition,
                          Refused, add, answers, caught_up, check, delete, dump, fill,
                          follow, frame, give, group, needs_module, open_words, pair,
                          put, read, refused, settle, snapshot, take, tcp_server, wait_until)

pytestmark = needs_module


# --- Replicas --------------------------------------------------------------------------

def words_of(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def play_primary(listener, stream):
    """Takes a replica, gives it nothing at all as its state, and then the stream."""
    connection, _ = listener.accept()
    file = connection.makefile("rb")
    while True:
        words = []
        for _ in range(int(file.readline()[1:])):
            words.append(file.read(int(file.readline()[1:]) + 2)[:-2].upper())
        if words[0] == b"PSYNC":
            break
        connection.sendall(b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n")
    empty = b"REDIS0009\xff" + bytes(8)
    connection.sendall(b"+FULLRESYNC %s 0\r\n$%d\r\n%s" % (b"1" * 40, len(empty), empty))
    connection.sendall(stream)
    return connection


@pytest.mark.parametrize("effects", [b"\x63", b"\x02\x00\x01", b"\x02\x07\x01\x00k"])
def test_a_replica_that_cannot_follow_ends(tcp_server, effects):
    stream = words_of(b"SELECT", b"0") + words_of(
        b"SNF.OPEN", b"k", b"2", b"1", b"GENERATION", b"5", b"t", b"8", b"8", b"1", b"0", b"0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        client = tcp_server.client()
        client("REPLICAOF", "127.0.0.1", str(listener.getsockname()[1]))
        with play_primary(listener, stream) as connection:
            wait_until(lambda: client("EXISTS", "k") == 1)
            connection.sendall(words_of(b"SNF.EFFECTS", b"k", b""))
            connection.sendall(words_of(b"SNF.EFFECTS", b"k", effects))
            assert tcp_server.process.wait(20) == 1
    with open(tcp_server.folder + "/log", errors="replace") as log:
        assert "effects for k not applied" in log.read()


def test_a_replica_has_it_all_and_takes_over(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    part.write(put(0, b"before", b"1"))
    replica = follow(two, one)
    Partition(part.client, "k", LOUD, TABLE)
    part.write(put(1, b"loud", b"1"))
    part.write(put(0, b"gone", b"1", 100))
    part.write(put(0, b"after", b"1"), delete(0, b"before"))
    wait_until(lambda: part.client.count("expired") == 1)
    data = part.frame(group(31, check(0, b"n", 0), put(0, b"n", b"1")))
    assert answers(part.send(data), part.number) == [APPLIED]
    caught_up(part.client, replica)
    assert replica.count("records") == 3
    refused("READONLY", replica, "SNF.FRAME", "k", part.frame(read(0, b"a")))
    refused("READONLY", replica, "SNF.OPEN", "k", *open_words(TABLE))
    refused("READONLY", replica, "SNF.MARK", "k", part.term)
    refused("READONLY", replica, "SNF.DUE", "k", part.term, 1, 0)
    one.kill()
    replica("REPLICAOF", "NO", "ONE")
    again = Partition(replica, "k", TABLE, LOUD)
    assert (again.generation, again.ids) == (part.generation, [0, 1])
    refused("SNFSTALE", replica, "SNF.FRAME", "k", data)
    number, = struct.unpack_from("<Q", data, 32)
    data = data[:16] + struct.pack("<Q", again.term) + data[24:]
    assert answers(again.send(data), number) == [APPLIED]
    assert replica.count("repeats") == 1
    assert [again.value(0, key) for key in (b"n", b"after", b"before", b"gone")] == \
        [b"1", b"1", None, None]
    assert again.value(1, b"loud") == b"1"


def test_a_promotion_starts_idle_times_anew(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    part.write(put(0, b"a", b"1", 2500))
    start = time.monotonic()
    replica = follow(two, one)
    while time.monotonic() - start < 3.5:
        assert part.value(0, b"a") == b"1"
    caught_up(part.client, replica)
    one.kill()
    replica("REPLICAOF", "NO", "ONE")
    again = Partition(replica, "k", TABLE)
    assert again.value(0, b"a", touch=False) == b"1"
    wait_until(lambda: again.value(0, b"a", touch=False) is None)


def test_a_replica_that_comes_under_load_misses_nothing(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    fill(part, 5000)
    stop, counts = threading.Event(), []

    def load(who):
        mine = Partition(Client(one.path), "k", TABLE)
        n = 0
        while not stop.is_set():
            n += mine.write(put(0, b"%d-%d" % (who, n % 3000), b"%d" % n)) is not None
        counts.append(n)
        mine.client.close()

    threads = [threading.Thread(target=load, args=(who,)) for who in range(2)]
    for thread in threads:
        thread.start()
    replica = follow(two, one)
    for _ in range(3):
        before = part.client.count("groups")
        wait_until(lambda: part.client.count("groups") > before + 500)
        replica("REPLICAOF", "NO", "ONE")
        replica = follow(two, one)
    stop.set()
    for thread in threads:
        thread.join()
    caught_up(part.client, replica)
    keys = [b"%d-%d" % (who, n) for who in range(2) for n in range(3000)] + \
        [b"%d" % n for n in range(5000)]
    want = snapshot(part, keys)
    replica("REPLICAOF", "NO", "ONE")
    assert snapshot(Partition(replica, "k", TABLE), keys) == want
    assert min(counts) > 100


def test_a_replica_writes_its_own_append_only_file(pair, tmp_path):
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    replica = follow(two, one)
    replica("CONFIG", "SET", "appendfsync", "always", "appendonly", "yes")
    wait_until(lambda: replica.info("persistence")["aof_rewrite_in_progress"] == "0")
    part.write(put(0, b"a", b"1"))
    caught_up(part.client, replica)
    one.kill()
    two.args += ("--appendonly", "yes")
    two.restart()
    assert Partition(two.client(), "k", TABLE).value(0, b"a") == b"1"


# --- Effects of every kind -------------------------------------------------------------

def churn(part, rng, n):
    """Random groups of all kinds, on few keys."""
    for _ in range(n):
        ops = [rng.choice([
            lambda: put(0, b"%d" % rng.randrange(50), b"%d" % rng.randrange(1000),
                        rng.choice((0, 100, 60000)), rank=rng.randrange(2)),
            lambda: delete(0, b"%d" % rng.randrange(50)),
            lambda: add(0, b"n%d" % rng.randrange(5), rng.randrange(-9, 9), -50, 50),
            lambda: take(1, b"r", 64 << rng.randrange(4), rng.randrange(64)),
            lambda: give(1, b"r", rng.randrange(64), rng.choice((0, 200, 60000))),
            lambda: put(2, b"%d" % rng.randrange(50), b"t", rng.choice((100, 60000))),
            lambda: put(3, b"%d" % rng.randrange(500), b"e", 60000,
                        rank=rng.randrange(2)),
        ])() for _ in range(rng.randrange(1, 4))]
        try:
            part.group(*ops)
        except Refused as error:
            assert "SNFBAD" in str(error)    # Two of them do not go together.
        if rng.random() < 0.05:
            for lease in part.due(5):
                part.group(settle(2, lease.key, lease.version), add(0, b"settled", 1))


def lasting(part):
    """What no clock has an influence on, after everything short has passed."""
    wait_until(lambda: not any(0 < idle < 1000 for table in part.tables().values()
                               for idle, _, _ in part.scan(table["id"])))
    return dump(part)


def test_a_replica_is_the_same_after_full_and_partial_synchronisation(pair):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    one, two = pair
    part = Partition(one.client(), "k", TABLE, RANGE, TIMED,
                     ("flow", 16, 64, 1, EVICT, 100))
    churn(part, rng, 500)
    replica = follow(two, one)
    syncs = lambda name: int(part.client.info("stats")["sync_" + name])
    for kind in ("replica", None, "replica"):
        churn(part, rng, 1000)
        if kind is not None:
            before = syncs("partial_ok")
            part.client("CLIENT", "KILL", "TYPE", kind)
            churn(part, rng, 200)
            wait_until(lambda: syncs("partial_ok") > before)
    for lease in part.due(1000):
        part.group(settle(2, lease.key, lease.version))
    while part.due(1000, 300):
        for _, left_ms, record in list(part.scan(2)):
            part.group(settle(2, record.key, record.version))
    lasting(part)
    caught_up(part.client, replica)
    mine, theirs = dump(part), {}
    for name, table in part.tables().items():
        part.client, kept = replica, part.client
        theirs.update({(name, r.key): r[2:] for _, _, r in part.scan(table["id"])})
        part.client = kept
    assert theirs == mine and len(mine) > 100
    assert syncs("full") == 1


# --- Commit ----------------------------------------------------------------------------

def test_replicas_are_counted_when_they_follow(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    assert part.replicas == 0 and part.client("SNF.MARK", "k", part.term) == 0
    replica = follow(two, one)
    wait_until(lambda: part.client("SNF.MARK", "k", part.term) == 1)
    assert Partition(part.client, "k", TABLE).replicas == 1
    replica("REPLICAOF", "NO", "ONE")
    wait_until(lambda: part.client("SNF.MARK", "k", part.term) == 0)


def test_a_commit_waits_for_what_another_connection_wrote(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    follow(two, one)
    beside = Partition(one.client(), "k", TABLE)
    assert part.write(put(0, b"a", b"1")) and beside.committed(1, 10000)
    two.process.send_signal(signal.SIGSTOP)
    try:
        assert part.write(put(0, b"a", b"2"))
        start = time.monotonic()
        assert not beside.committed(1, 300)
        assert 0.3 <= time.monotonic() - start < 5
        assert part.value(0, b"a") == b"2"
    finally:
        two.process.send_signal(signal.SIGCONT)
    assert beside.committed(1, 20000)


def test_a_mark_is_in_the_stream(pair):
    """WAIT waits for what its own connection put there."""
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    replica = follow(two, one)
    offset = lambda client: int(client.info("replication")["master_repl_offset"])
    before = offset(part.client)
    part.client("SNF.MARK", "k", part.term)
    assert offset(part.client) > before
    caught_up(part.client, replica)
    assert "differs" not in open(two.folder + "/log").read()


def test_what_is_committed_is_there_after_a_failover(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    replica = follow(two, one)
    beside = Partition(one.client(), "k", TABLE)
    for i in range(300):
        assert part.write(put(0, b"%d" % i, b"%d" % i))
    assert beside.committed(1, 10000)
    one.kill()
    replica("REPLICAOF", "NO", "ONE")
    again = Partition(replica, "k", TABLE)
    assert all(again.value(0, b"%d" % i) == b"%d" % i for i in range(300))


# --- Terms -----------------------------------------------------------------------------

def test_each_time_as_a_primary_has_its_own_term(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    part.write(put(0, b"a", b"1"))
    follow(two, one)
    caught_up(part.client, two.client())
    part.client("REPLICAOF", "127.0.0.1", two.port)
    refused("READONLY", part.client, "SNF.FRAME", "k", part.frame(read(0, b"a")))
    two.client()("REPLICAOF", "NO", "ONE")
    other = Partition(two.client(), "k", TABLE)
    follow(one, two)
    part.client("REPLICAOF", "NO", "ONE")
    refused("SNFSTALE", part.client, "SNF.FRAME", "k", part.frame(
        group(5, put(0, b"a", b"2"))))
    refused("SNFSTALE", part.client, "SNF.MARK", "k", part.term)
    refused("SNFSTALE", part.client, "SNF.DUE", "k", part.term, 1, 0)
    again = Partition(part.client, "k", TABLE)
    assert again.value(0, b"a") == b"1"
    assert len({part.term, other.term, again.term}) == 3
    assert part.generation == other.generation == again.generation
    assert part.client.count("terms") == 2


def test_a_replica_that_may_be_written_takes_no_frames(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE)
    replica = follow(two, one)
    caught_up(part.client, replica)
    replica("CONFIG", "SET", "replica-read-only", "no")
    refused("READONLY", replica, "SNF.OPEN", "k", *open_words(TABLE))
    for term in (0, part.term):
        refused("READONLY", replica, "SNF.FRAME", "k", frame(
            part.generation, term, 1, 1, group(1, put(0, b"a", b"1"))))
    refused("SNFSTALE", replica, "SNF.DUE", "k", part.term, 1, 0)
    assert replica.count("records") == 0


def test_a_replica_leases_nothing_and_its_successor_does(pair):
    one, two = pair
    part = Partition(one.client(), "k", TABLE, TIMED)
    replica = follow(two, one)
    version = part.write(put(1, b"a", b"v", 200))
    assert len(part.due(timeout_ms=5000)) == 1
    caught_up(part.client, replica)
    assert replica.count("due") == 0
    one.kill()
    replica("REPLICAOF", "NO", "ONE")
    again = Partition(replica, "k", TABLE, TIMED)
    lease, = again.due(timeout_ms=5000)
    assert lease.version == version
    assert again.group(settle(1, b"a", version)) == APPLIED
