"""test_store_files.py - what comes back from files, dumps and another server: records of
all kinds, generation, tables and remembered frames.  No root, no network.
"""
import random
import struct
import threading

import pytest

from store_client import (AOF, APPLIED, BOUND, CONFLICT, EVICT, LOUD, RANGE, TABLE,
                          TIMED, Client, Partition, Refused, Server, add, answers,
                          check, delete, dump, fill, give, group, needs_module,
                          on_a_port, open_words, pick, put, read, refused, server,
                          settle, snapshot, take, wait_until)

pytestmark = needs_module


@pytest.fixture
def part(server):
    return Partition(server.client(), "k", TABLE, LOUD)


# --- Files -----------------------------------------------------------------------------

def retermed(data, part):
    """The same frame, for the term in which the partition was opened."""
    return data[:8] + struct.pack("<QQ", part.generation, part.term) + data[24:]


def survives(server, part, restart):
    """Records, generation, tables and remembered frames are there after the restart."""
    keys = [b"%d" % i for i in range(3000)]
    fill(part, 3000)
    part.write(delete(0, b"7"), put(0, b"8", b"", 60000))
    data = part.frame(group(21, check(0, b"new", 0), put(0, b"new", b"1")))
    number = part.number
    assert answers(part.send(data), number) == [APPLIED]
    before = snapshot(part, keys)
    restart()
    again = Partition(server.client(), "k", LOUD, TABLE, who=part.who)
    assert (again.generation, again.ids) == (part.generation, [1, 0])
    assert again.term != part.term
    refused("SNFSTALE", again.client, "SNF.FRAME", "k", data)
    data = retermed(data, again)
    again.numbers = part.numbers
    assert snapshot(again, keys) == before
    assert answers(again.send(data), number) == [APPLIED]
    assert again.value(0, b"new") == b"1"
    assert again.client.count("records") == 3000
    return again


def test_an_rdb_file_brings_it_back(server, part):
    def restart():
        part.client("SAVE")
        server.restart()
    survives(server, part, restart)


def test_an_append_only_file_brings_it_back(tmp_path):
    with Server(tmp_path, *AOF) as server:
        part = Partition(server.client(), "k", TABLE, LOUD)
        survives(server, part, server.restart)


@pytest.mark.parametrize("preamble", ["no", "yes"])
def test_a_rewritten_append_only_file_brings_it_back(tmp_path, preamble):
    with Server(tmp_path, *AOF[:-1], preamble) as server:
        part = Partition(server.client(), "k", TABLE, LOUD)

        def restart():
            part.client("BGREWRITEAOF")
            info = lambda: part.client.info("persistence")
            wait_until(lambda: info()["aof_rewrite_in_progress"] == "0" and
                       info()["aof_rewrite_scheduled"] == "0")
            assert info()["aof_last_bgrewrite_status"] == "ok"
            part.write(put(0, b"later", b"1"), delete(0, b"later"))
            server.restart()
        survives(server, part, restart)


def test_expiry_reaches_the_append_only_file(tmp_path):
    with Server(tmp_path, *AOF) as server:
        part = Partition(server.client(), "k", TABLE)
        part.write(put(0, b"a", b"1", 200))
        wait_until(lambda: part.client.count("expired") == 1)
        server.restart()
        assert Partition(server.client(), "k", TABLE).client.count("records") == 0


def test_writes_count_as_changes_for_save_points(part):
    def changes():
        return int(part.client.info("persistence")["rdb_changes_since_last_save"])
    before = changes()
    for i in range(10):
        part.write(put(0, b"a", b"%d" % i))
    assert changes() == before + 10
    part.value(0, b"a")
    assert changes() == before + 10


def test_dump_and_restore(part):
    fill(part, 1000)
    data = part.client("DUMP", "k")
    part.client("RESTORE", "copy", 0, data)
    copy = Partition(part.client, "copy", TABLE)
    assert copy.generation == part.generation
    keys = [b"%d" % i for i in range(1000)]
    assert snapshot(copy, keys) == snapshot(part, keys)


def crc64(data):
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x95ac9329ac4bc9b5 if crc & 1 else 0)
    return crc


def test_a_hostile_dump_harms_nobody(part):
    """A dump with a right checksum is anybody's to make."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    Partition(part.client, "k", RANGE, TIMED)
    part.client("CONFIG", "SET", "rdbcompression", "no")
    version = part.write(put(0, b"a", b"1", 1000), put(1, b"b", b"2"))
    part.write(take(2, b"r", 100, 7), take(2, b"r", 100, 70), put(3, b"t", b"3", 100))
    part.write(give(2, b"r", 70, 500), add(0, b"n", 7))
    whole = part.client("DUMP", "k")
    assert whole[-8:] == struct.pack("<Q", crc64(whole[:-8]))
    n_refused = 0
    for _ in range(3000):
        data = bytearray(whole[:-8])
        for _ in range(rng.randrange(1, 4)):
            # Behind the server's own framing of the value, before its version.
            data[rng.randrange(14, len(data) - 4)] = rng.choice(
                (0, 1, 255, rng.randrange(256)))
        data += struct.pack("<Q", crc64(data))
        try:
            part.client("RESTORE", "copy", 0, bytes(data), "REPLACE")
            copy = Partition(part.client, "copy", TABLE, LOUD, RANGE, TIMED)
            copy.ask(read(0, b"a"), pick(2, b"r", 100), group(
                3, put(0, b"a", b"3"), take(2, b"r", 100, 8)), group(
                    4, give(2, b"r", 7, 100), add(0, b"n", 1)))
            copy.due()
            dump(copy)
        except Refused:
            n_refused += 1
    assert 100 < n_refused < 3000
    assert part.ask(read(1, b"b")) == [(1, 1, version, b"2")]


# --- State of every kind ---------------------------------------------------------------

def everything(part):
    """Tables declared before and after the module's own, and something in all of them."""
    Partition(part.client, "k", RANGE, ("flow", 16, 64, 1, EVICT, 50))
    fill(part, 1000)
    part.write(*(take(2, b"range", 3000, member) for member in range(0, 3000, 100)))
    part.write(give(2, b"range", 100, quarantine_ms=600000), give(2, b"range", 200))
    Partition(part.client, "k", TIMED)
    part.write(put(5, b"due", b"1", 100), put(5, b"not due", b"1", 600000),
               add(0, b"counter", 5, -10, 10, offset=8, size=24),
               put(1, b"loud", b"x" * 2048))
    for i in range(60):
        part.write(put(3, b"%d" % i, b"1", 600000, rank=i % 2))
    part.due(timeout_ms=5000)


def same_everything(part, before):
    tables = part.tables()
    assert [t["id"] for t in tables.values()] == list(range(6))
    assert tables["flow"]["limit"] == 50 and tables["flow"]["flags"] == EVICT
    assert dump(part) == before
    assert part.group(take(2, b"range", 3000, 100)) == CONFLICT
    assert part.group(take(2, b"range", 3000, 200)) == APPLIED
    assert part.group(add(0, b"counter", 6, -10, 10, offset=8, size=24)) == BOUND
    assert part.group(put(3, b"new", b"1", 1000)) == APPLIED
    assert part.tables()["flow"]["records"] == 50
    lease, = part.due(timeout_ms=5000)
    assert lease.key == b"due" and part.group(settle(5, b"due", lease.version)) == APPLIED


def save(server, client):
    client("SAVE")


def rewrite(server, client):
    client("BGREWRITEAOF")
    info = lambda: client.info("persistence")
    wait_until(lambda: info()["aof_rewrite_in_progress"] == "0" and
               info()["aof_rewrite_scheduled"] == "0")
    assert info()["aof_last_bgrewrite_status"] == "ok"


@pytest.mark.parametrize("words, step", [
    ((), save), (AOF, None), (AOF, rewrite), ((*AOF[:-1], "yes"), rewrite)],
    ids=["rdb", "aof", "rewritten", "preamble"])
def test_state_of_every_kind_comes_back(tmp_path, words, step):
    with Server(tmp_path, *words) as server:
        part = Partition(server.client(), "k", TABLE, LOUD)
        everything(part)
        before = dump(part)
        if step is not None:
            step(server, part.client)
        server.restart()
        same_everything(Partition(server.client(), "k", TABLE), before)


def test_a_snapshot_under_load_is_of_one_moment(server):
    """Two counters that only rise together are equal in the file."""
    part = Partition(server.client(), "k", TABLE, LOUD)
    fill(part, 100000)
    stop, clients = threading.Event(), [Client(server.path) for _ in range(2)]

    def load(client):
        mine = Partition(client, "k", TABLE)
        while not stop.is_set():
            mine.ask(*(group(next(mine.versions), add(0, b"one", 1), add(0, b"two", 1))
                       for _ in range(50)))

    threads = [threading.Thread(target=load, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    wait_until(lambda: part.value(0, b"one"))
    start = part.value(0, b"one")
    part.client("BGSAVE")
    wait_until(lambda: part.client.info("persistence")["rdb_bgsave_in_progress"] == "0")
    assert part.client.info("persistence")["rdb_last_bgsave_status"] == "ok"
    stop.set()
    for thread, client in zip(threads, clients):
        thread.join()
        client.close()
    end = part.value(0, b"one")
    server.restart()
    again = Partition(server.client(), "k", TABLE)
    one, two = again.value(0, b"one"), again.value(0, b"two")
    number = [struct.unpack("<q", value)[0] for value in (start, one, end)]
    assert one == two and number[0] <= number[1] < number[2]


def test_a_partition_moves_to_another_server(tmp_path):
    with on_a_port(tmp_path / "one") as one, on_a_port(tmp_path / "two") as two:
        part = Partition(one.client(), "k", TABLE, LOUD)
        everything(part)
        before = dump(part)
        data = part.frame(group(77, put(0, b"last", b"1")))
        part.send(data)
        before[TABLE[0], b"last"] = (1, 77, b"1")
        part.client("MIGRATE", "127.0.0.1", two.port, "k", 0, 10000)
        refused("SNFSTALE", part.client, "SNF.FRAME", "k", data)
        again = Partition(two.client(), "k", TABLE, who=part.who)
        again.numbers = part.numbers
        assert again.generation == part.generation and again.term != part.term
        assert answers(again.send(retermed(data, again)), part.number) == [APPLIED]
        assert two.clients[-1].count("repeats") == 1
        same_everything(again, before)
        assert part.client.count("partitions") == 0
        assert again.client.count("partitions") == 1


# --- A Cluster -------------------------------------------------------------------------

CLUSTER = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")


@pytest.fixture
def cluster(tmp_path):
    """Two primaries, half of the slots each."""
    with on_a_port(tmp_path / "one", *CLUSTER) as one, \
            on_a_port(tmp_path / "two", *CLUSTER) as two:
        clients = [one.client(), two.client()]
        clients[0]("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        clients[1]("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        clients[0]("CLUSTER", "MEET", "127.0.0.1", two.port)
        wait_until(lambda: all(c.info("cluster").get("cluster_enabled") == "1" and
                               b"cluster_state:ok" in c("CLUSTER", "INFO") and
                               b"cluster_known_nodes:2" in c("CLUSTER", "INFO")
                               for c in clients))
        yield one, two


def test_a_slot_is_moved_while_a_client_is_at_work(cluster):
    one, two = cluster
    here, there = one.client(), two.client()
    name = next("snf:{t%d:0}" % i for i in range(1000)
                if here("CLUSTER", "KEYSLOT", "snf:{t%d:0}" % i) < 8192)
    slot = here("CLUSTER", "KEYSLOT", name)
    ids = [c("CLUSTER", "MYID").decode() for c in (here, there)]
    part = Partition(here, name, TABLE, TIMED)
    refused("MOVED %d" % slot, there, "SNF.OPEN", name, *open_words(TABLE))
    waiter = one.client()
    waiter.send("SNF.DUE", name, part.term, 1, 60000)
    version = part.write(put(0, b"a", b"1"))
    there("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    here("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    assert part.value(0, b"a") == b"1"
    here("MIGRATE", "127.0.0.1", two.port, name, 0, 10000)
    refused("ASK %d" % slot, here, "SNF.FRAME", name, part.frame(read(0, b"a")))
    refused("ASK %d" % slot, here, "SNF.OPEN", name, *open_words(TABLE))
    refused("SNFSTALE", waiter, "PING")
    refused("MOVED %d" % slot, there, "SNF.OPEN", name, *open_words(TABLE))
    there("ASKING")
    moved = Partition(there, name, TABLE)
    assert moved.generation == part.generation and moved.term != part.term
    there("ASKING")
    assert moved.ask(read(0, b"a")) == [(1, 1, version, b"1")]
    for client in (there, here):
        client("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    assert moved.write(put(0, b"a", b"2"))
    refused("MOVED %d" % slot, here, "SNF.MARK", name, part.term)
