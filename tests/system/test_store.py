"""test_store.py - the module in a real server: what it answers, keeps and expires, what
comes back from files, and what it survives.  No root, no network: a unix socket.
"""
import os
import random
import struct
import threading
import time

import pytest

from store_client import (AOF, APPLIED, CONFLICT, LOUD, MISS, REFUSED, TABLE, Client,
                          Partition, Refused, Server, answers, check, delete, fill, frame,
                          group, needs_module, put, read, refused, server, snapshot,
                          wait_until)

pytestmark = needs_module


@pytest.fixture
def part(server):
    return Partition(server.client(), "k", TABLE, LOUD)


# --- Opening ---------------------------------------------------------------------------

def test_open_again_gives_the_same(part):
    again = Partition(part.client, "k", LOUD, TABLE)
    assert (again.generation, again.ids) == (part.generation, [1, 0])
    assert 0 < part.generation < 1 << 63


def test_another_protocol_is_refused(server):
    refused("ERR SNFPROTO", server.client(), "SNF.OPEN", "k", 2, *TABLE)
    assert server.client()("EXISTS", "k") == 0


def test_other_limits_are_refused(part):
    refused("ERR SNFTABLE", part.client, "SNF.OPEN", "k", 1, TABLE[0], 17, 64, 1)
    refused("ERR SNFTABLE", part.client, "SNF.OPEN", "k", 1, TABLE[0], 16, 65, 1)


def test_a_format_may_rise(part):
    again = Partition(part.client, "k", (*TABLE[:3], 2))
    assert again.generation == part.generation


@pytest.mark.parametrize("table", [
    ("", 16, 64, 1), ("x" * 32, 16, 64, 1), (b"a\0b", 16, 64, 1), ("t", 0, 64, 1),
    ("t", 65, 64, 1), ("t", 16, 2049, 1), ("t", -1, 64, 1), ("t", 16, 64, 256),
    ("t", 65552, 64, 1), ("t", "x", 64, 1), ("t", 16, 1 << 70, 1)])
def test_what_is_out_of_range_is_refused(server, table):
    client = server.client()
    refused("ERR SNFTABLE", client, "SNF.OPEN", "k", 1, *table)
    assert client("EXISTS", "k") == 0


def test_too_many_tables_are_refused(server):
    client = server.client()
    words = [w for i in range(33) for w in ("t%d" % i, 16, 64, 1)]
    refused("ERR SNFTABLE", client, "SNF.OPEN", "k", 1, *words)
    client("SNF.OPEN", "k", 1, *words[:-4])
    refused("ERR SNFTABLE", client, "SNF.OPEN", "k", 1, *words[-4:])


def test_wrong_words_are_refused(server):
    client = server.client()
    for words in ([], ["k"], ["k", 1, "t"], ["k", 1, "t", 1, 1], ["k", 1, "t", 1]):
        refused("ERR", client, "SNF.OPEN", *words)
    for name in ("SNF.FRAME", "SNF.EFFECTS"):
        for words in ([], ["k"], ["k", "a", "b"]):
            refused("ERR wrong number", client, name, *words)


def test_another_type_is_refused(server):
    client = server.client()
    client("SET", "k", "v")
    refused("WRONGTYPE", client, "SNF.OPEN", "k", 1, *TABLE)
    refused("WRONGTYPE", client, "SNF.FRAME", "k", frame(1, 1, 1))
    assert client("GET", "k") == b"v"


def test_what_is_for_replication_is_refused(part):
    version = part.write(put(0, b"a", b"1"))
    refused("ERR SNFINTERNAL", part.client, "SNF.EFFECTS", "k", b"")
    refused("ERR SNFINTERNAL", part.client, "SNF.OPEN", "new", 1, "GENERATION", 5, *TABLE)
    part.client("MULTI")
    part.client("SNF.EFFECTS", "k", b"x" * 100)
    with pytest.raises(Refused):
        part.client("EXEC")
        raise Refused("EXEC answers an array with the error in it")
    assert part.ask(read(0, b"a")) == [(1, 1, version, b"1")]


# --- Frames ----------------------------------------------------------------------------

def test_read_put_check_delete(part):
    assert part.ask(read(0, b"a")) == [MISS]
    first = part.write(check(0, b"a", 0), put(0, b"a", b"one"))
    assert part.ask(read(0, b"a"), read(1, b"a")) == [(1, 1, first, b"one"), MISS]
    assert part.write(check(0, b"a", 0), put(0, b"a", b"two")) is None
    second = part.write(check(0, b"a", first), put(0, b"a", b"two", form=7))
    assert part.ask(read(0, b"a", touch=False)) == [(1, 7, second, b"two")]
    assert part.write(check(0, b"a", first), delete(0, b"a")) is None
    assert part.write(check(0, b"a", second), delete(0, b"a"))
    assert part.ask(read(0, b"a")) == [MISS]


def test_the_longest_and_the_shortest(part):
    key, value = bytes(range(64)), os.urandom(2048)
    version = part.write(put(1, key, value), put(1, b"z", b""))
    assert part.ask(read(1, key), read(1, b"z")) == [(1, 1, version, value),
                                                     (1, 1, version, b"")]


def test_a_group_is_applied_whole_or_not_at_all(part):
    one = part.write(put(0, b"a", b"1"), put(1, b"b", b"1"))
    assert part.ask(group(7, check(0, b"a", one), check(1, b"b", one + 1),
                          put(0, b"a", b"2"), delete(1, b"b"), put(0, b"c", b"2")),
                    group(8, check(0, b"a", one), put(0, b"d", b"3"))) \
        == [CONFLICT, APPLIED]
    assert [part.value(0, b"a"), part.value(1, b"b"), part.value(0, b"c"),
            part.value(0, b"d")] == [b"1", b"1", None, b"3"]


def test_a_frame_answers_in_order_and_sees_its_own_groups(part):
    got = part.ask(read(0, b"a"), group(9, put(0, b"a", b"1")), read(0, b"a"),
                   group(10, delete(0, b"a")), read(0, b"a"))
    assert got == [MISS, APPLIED, (1, 1, 9, b"1"), APPLIED, MISS]


def test_a_repeated_frame_is_answered_the_same_and_changes_nothing(part):
    part.write(put(0, b"n", b"0"))
    data = part.frame(group(11, check(0, b"new", 0), put(0, b"new", b"1")),
                      group(12, check(0, b"n", 1), put(0, b"n", b"9")))
    first = answers(part.send(data), part.number)
    number = part.number
    assert first == [APPLIED, CONFLICT]
    part.write(delete(0, b"new"))
    assert answers(part.send(data), number) == first
    assert part.value(0, b"new") is None
    assert part.client.count("repeats") == 1


def test_a_frame_of_long_ago_is_not_repeated(part):
    data = part.frame(group(13, put(0, b"a", b"1")))
    part.send(data)
    for _ in range(100):
        part.write(put(0, b"a", b"2"))
    refused("SNFREPEAT", part.client, "SNF.FRAME", "k", data)
    assert part.value(0, b"a") == b"2"


def test_another_generation_is_stale(part):
    refused("SNFSTALE", part.client, "SNF.FRAME", "k", frame(part.generation + 1, 1, 1))
    refused("SNFSTALE", part.client, "SNF.FRAME", "other", frame(part.generation, 1, 1))
    part.client("DEL", "k")
    refused("SNFSTALE", part.client, "SNF.FRAME", "k", part.frame(read(0, b"a")))
    assert Partition(part.client, "k", TABLE).generation != part.generation


def test_hostile_frames_harm_nobody(part):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    other = Partition(part.client, "other", TABLE)
    kept = {bytes([i]): other.write(put(0, bytes([i]), b"v%d" % i)) for i in range(50)}
    samples = [part.frame(read(0, b"a"), read(1, b"b" * 64), group(5, put(0, b"a", b"1"))),
               part.frame(group(6, check(0, b"a", 5), put(1, b"c", b"x" * 500, 1000),
                                delete(0, b"a")), read(1, b"c")),
               part.frame(*(read(0, bytes([i])) for i in range(100)))]
    n_refused = 0
    for i in range(20000):
        data = bytearray(rng.choice(samples))
        struct.pack_into("<Q", data, 24, 1000 + i)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at:at + rng.choice((0, 1, 1, 1))] = bytes(
                [rng.choice((0, 1, 255, rng.randrange(256)))] * rng.choice((0, 1, 1, 1)))
        if rng.random() < 0.7 and len(data) >= 16:
            struct.pack_into("<I", data, 4, len(data))
            struct.pack_into("<Q", data, 8, part.generation)
        part.client.send("SNF.FRAME", "k", bytes(data))
        try:
            part.client.receive()
        except Refused as error:
            assert str(error).startswith(("ERR SNF", "SNF")), error
            n_refused += 1
    assert 1000 < n_refused < 20000
    for key, version in kept.items():
        assert other.ask(read(0, key)) == [(1, 1, version, b"v%d" % key[0])]


def test_no_memory_refuses_puts_and_nothing_else(part):
    version = part.write(put(0, b"a", b"1"), put(0, b"b", b"1"))
    part.client("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1mb")
    got = part.ask(group(5, put(0, b"c", b"1")), read(0, b"a"), group(6, delete(0, b"b")))
    assert got == [REFUSED, (1, 1, version, b"1"), APPLIED]
    part.client("CONFIG", "SET", "maxmemory", "0")
    assert part.write(put(0, b"c", b"1"))


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


# --- Memory ----------------------------------------------------------------------------

def used(client):
    return int(client.info("memory")["used_memory"])


@pytest.mark.parametrize("words", [("UNLINK", "k"), ("FLUSHALL", "ASYNC"), ("DEL", "k"),
                                   ("FLUSHALL", "SYNC")])
def test_memory_is_the_servers_and_comes_back(server, words):
    client = server.client()
    before = used(client)
    part = Partition(client, "k", TABLE)
    fill(part)
    size = client("MEMORY", "USAGE", "k")
    assert size > 20000 * 100
    assert abs(used(client) - before - size) < size / 4
    client(*words)
    wait_until(lambda: used(client) - before < size / 20)
    assert client.count("partitions") == 0


# --- Files -----------------------------------------------------------------------------

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
    part.client("CONFIG", "SET", "rdbcompression", "no")
    version = part.write(put(0, b"a", b"1", 1000), put(1, b"b", b"2"))
    whole = part.client("DUMP", "k")
    assert whole[-8:] == struct.pack("<Q", crc64(whole[:-8]))
    for _ in range(2000):
        data = bytearray(whole[:-8])
        for _ in range(rng.randrange(1, 4)):
            # Behind the server's own framing of the value, before its version.
            data[rng.randrange(14, len(data) - 4)] = rng.choice(
                (0, 1, 255, rng.randrange(256)))
        data += struct.pack("<Q", crc64(data))
        try:
            part.client("RESTORE", "copy", 0, bytes(data), "REPLACE")
            copy = Partition(part.client, "copy", TABLE)
            copy.ask(read(0, b"a"), group(3, put(0, b"a", b"3")))
        except Refused:
            pass
        part.client("DEL", "copy")
    assert part.ask(read(0, b"a")) == [(1, 1, version, b"1")]


# --- The event loop --------------------------------------------------------------------

def cpu_seconds(server):
    with open("/proc/%d/stat" % server.process.pid) as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_awake(server):
    """Whether the loop's epoll set holds the eventfd that keeps it awake."""
    folder = "/proc/%d/fd" % server.process.pid
    links = {fd: os.readlink(os.path.join(folder, fd)) for fd in os.listdir(folder)}
    events = {fd for fd, to in links.items() if to == "anon_inode:[eventfd]"}
    for fd, to in links.items():
        if to != "anon_inode:[eventpoll]":
            continue
        with open("/proc/%d/fdinfo/%s" % (server.process.pid, fd)) as info:
            if events & {line.split()[1] for line in info if line.startswith("tfd:")}:
                return True
    return False


def test_awake_under_load_and_asleep_without(server, part):
    stop = threading.Event()
    client = Client(server.path)

    def load():
        mine = Partition(client, "k", TABLE)
        data = [mine.frame(read(0, b"a")) for _ in range(50)]
        while not stop.is_set():
            for one in data:
                client.send("SNF.FRAME", "k", one)
            for _ in data:
                client.receive()

    thread = threading.Thread(target=load)
    thread.start()
    if os.cpu_count() > 1:
        wait_until(lambda: is_awake(server), what="the loop to stay awake")
    stop.set()
    thread.join()
    client.close()
    wait_until(lambda: not is_awake(server), what="the loop to sleep")
    before, start = cpu_seconds(server), time.monotonic()
    wait_until(lambda: time.monotonic() - start > 2)
    assert cpu_seconds(server) - before < 0.1


def test_a_trickle_does_not_keep_it_awake(server, part):
    start, awake = time.monotonic(), 0
    while time.monotonic() - start < 1:
        part.value(0, b"a")
        asked = time.monotonic()
        # From the last one, not from the start: after a stall no burst catches up.
        wait_until(lambda: time.monotonic() - asked > 0.01)
        awake += is_awake(server)
    assert awake == 0
