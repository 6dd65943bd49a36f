"""test_store.py - the module in a real server: what it makes of commands and frames,
right ones and hostile ones.  No root, no network: a unix socket.
"""
import os
import random
import re
import struct
import threading
import time

import pytest

from store_client import (APPLIED, CONFLICT, EVICT, LEASED, LOUD, MISS, PROTOCOL, RANGE,
                          REFUSED, REPO, TABLE, TIMED, Client, Partition, Refused, add,
                          answers, check, delete, dump, fill, frame, give, group,
                          needs_module, open_words, pick, put, read, refused, server,
                          settle, table_words, take, touch, wait_until)

pytestmark = needs_module


@pytest.fixture
def part(server):
    return Partition(server.client(), "k", TABLE, LOUD)


# --- Opening ---------------------------------------------------------------------------

def test_open_again_gives_the_same(part):
    again = Partition(part.client, "k", LOUD, TABLE)
    assert (again.generation, again.ids) == (part.generation, [1, 0])
    assert (again.term, again.replicas) == (part.term, 0)
    assert 0 < part.generation < 1 << 63 and 0 < part.term < 1 << 63


def test_another_protocol_is_refused(server):
    client = server.client()
    refused("ERR SNFPROTO", client, "SNF.OPEN", "k", 1, *TABLE)
    refused("ERR SNFPROTO", client, "SNF.OPEN", "k", PROTOCOL + 1, 1, *table_words(TABLE))
    refused("ERR SNFPROTO", client, "SNF.OPEN", "k", "x")
    assert client("EXISTS", "k") == 0


def test_another_number_of_partitions_is_refused(server):
    client = server.client()
    for n in (0, 65, -1, "x"):
        refused("ERR SNFPARTITIONS", client, "SNF.OPEN", "k", PROTOCOL, n)
    assert client("EXISTS", "k") == 0
    part = Partition(client, "k", TABLE, n_partitions=64)
    refused("ERR SNFPARTITIONS the store has 64 partitions, not 1", client, "SNF.OPEN",
            "k", *open_words(TABLE))
    again = Partition(client, "k", TABLE, n_partitions=64)
    assert again.generation == part.generation


def test_other_limits_are_refused(part):
    for table in ((TABLE[0], 17, 64, 1), (TABLE[0], 16, 65, 1)):
        refused("ERR SNFTABLE 0: exists", part.client, "SNF.OPEN", "k",
                *open_words(table))


def test_format_flags_and_limit_may_change(part):
    again = Partition(part.client, "k", (*TABLE[:3], 2, LEASED, 5))
    assert again.generation == part.generation
    Partition(part.client, "k", (*TABLE[:3], 1, EVICT, 7))
    table = part.tables()[TABLE[0]]
    assert (table["format"], table["flags"], table["limit"]) == (2, EVICT, 7)


@pytest.mark.parametrize("table", [
    ("", 16, 64, 1), ("x" * 32, 16, 64, 1), (b"a\0b", 16, 64, 1), ("t", 0, 64, 1),
    ("t", 65, 64, 1), ("t", 16, 8209, 1), ("t", -1, 64, 1), ("t", 16, 64, 256),
    ("t", 65552, 64, 1), ("t", "x", 64, 1), ("t", 16, 1 << 70, 1),
    ("t", 16, 64, 1, 4), ("t", 16, 64, 1, LEASED | EVICT), ("t", 16, 64, 1, -1),
    ("t", 16, 64, 1, 256), ("t", 16, 64, 1, 0, -1), ("t", 16, 64, 1, 0, 1 << 63),
    ("t", 16, 64, 1, 0, "x"), ("snf.quarantine", 16, 64, 1), ("snf.x", 16, 64, 1)])
def test_what_is_out_of_range_is_refused(server, table):
    client = server.client()
    refused("ERR SNFTABLE", client, "SNF.OPEN", "k", *open_words(table))
    assert client("EXISTS", "k") == 0


def test_too_many_tables_are_refused(server):
    client = server.client()
    tables = [("t%d" % i, 16, 64, 1) for i in range(65)]
    refused("ERR SNFTABLE more than", client, "SNF.OPEN", "k", *open_words(*tables))
    most = next(n for n in range(64, 0, -1) if opens(client, tables[:n]))
    assert most >= 63
    refused("ERR SNFTABLE 0: no room", client, "SNF.OPEN", "k", *open_words(tables[64]))


def opens(client, tables):
    try:
        return Partition(client, "k", *tables)
    except Refused as error:
        assert "no room" in str(error)


def test_wrong_words_are_refused(server):
    client = server.client()
    for words in ([], ["k"], ["k", 2], ["k", 2, 1, "t"], ["k", 2, 1, "t", 1, 1, 1],
                  ["k", 2, 1, "t", 1], ["k", 2, 1, "t", 1, 1, 1, 0]):
        refused("ERR wrong number", client, "SNF.OPEN", *words)
    for name, right in (("FRAME", 2), ("EFFECTS", 2), ("MARK", 2), ("DUE", 4),
                        ("SCAN", 4), ("TABLES", 1)):
        for n in range(6):
            if n != right and not (name == "DUE" and n > right):
                refused("ERR wrong number", client, "SNF." + name, *["1"] * n)


COMMANDS = (("SNF.FRAME", frame(1, 1, 1, 1)), ("SNF.MARK", 1), ("SNF.DUE", 1, 1, 100),
            ("SNF.TABLES",), ("SNF.SCAN", 0, 0, 10))


def test_another_type_is_refused(server):
    client = server.client()
    client("SET", "k", "v")
    refused("WRONGTYPE", client, "SNF.OPEN", "k", *open_words(TABLE))
    for name, *words in COMMANDS:
        refused("WRONGTYPE", client, name, "k", *words)
    assert client("GET", "k") == b"v"


def test_no_partition_is_stale(server):
    client = server.client()
    for name, *words in COMMANDS:
        refused("SNFSTALE", client, name, "k", *words)
    assert client("EXISTS", "k") == 0


def test_numbers_out_of_range_are_refused(part):
    for words in (("MARK", "x"), ("MARK", 0), ("MARK", -1), ("MARK", 1 << 63),
                  ("DUE", 0, 1, 1), ("DUE", 1, 0, 1), ("DUE", 1, 1025, 1),
                  ("DUE", 1, 1, 60001), ("DUE", 1, 1, -1), ("DUE", "x", 1, 1),
                  ("SCAN", 32, 0, 1), ("SCAN", 2, 0, 1), ("SCAN", -1, 0, 1),
                  ("SCAN", 0, -1, 1), ("SCAN", 0, "x", 1), ("SCAN", 0, 0, 0),
                  ("SCAN", 0, 0, 1001)):
        refused("ERR SNFBAD", part.client, "SNF." + words[0], "k", *words[1:])


def test_any_cursor_of_a_scan_is_harmless(part):
    fill(part, 500)
    for cursor in (*(1 << n for n in range(63)), (1 << 63) - 1):
        for table in (0, 1):
            part.client("SNF.SCAN", "k", table, cursor, 100)


def test_every_command_says_which_word_is_its_key(server):
    client = server.client()
    for name in ("OPEN", "FRAME", "MARK", "DUE", "TABLES", "SCAN", "EFFECTS"):
        assert client("COMMAND", "GETKEYS", "SNF." + name, "k", 1, 1, 1) == [b"k"]


def test_what_is_for_replication_is_refused(part):
    version = part.write(put(0, b"a", b"1"))
    refused("ERR SNFINTERNAL", part.client, "SNF.EFFECTS", "k", b"")
    refused("ERR SNFINTERNAL", part.client, "SNF.OPEN", "new", PROTOCOL, 1,
            "GENERATION", 5, *table_words(TABLE))
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


def test_another_generation_or_term_is_stale(part):
    for generation, term in ((part.generation + 1, part.term), (part.generation, 0),
                             (part.generation, part.term + 1)):
        refused("SNFSTALE", part.client, "SNF.FRAME", "k",
                frame(generation, term, 1, 1, group(1, put(0, b"a", b"1"))))
    refused("SNFSTALE", part.client, "SNF.MARK", "k", part.term + 1)
    assert part.value(0, b"a") is None
    part.client("DEL", "k")
    refused("SNFSTALE", part.client, "SNF.FRAME", "k", part.frame(read(0, b"a")))
    assert Partition(part.client, "k", TABLE).generation != part.generation


def mutations(rng, samples, part, n):
    """Frames with some bytes changed, most of them with a right head."""
    for i in range(n):
        data = bytearray(rng.choice(samples))
        struct.pack_into("<Q", data, 32, 1000 + i)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at:at + rng.choice((0, 1, 1, 1))] = bytes(
                [rng.choice((0, 1, 255, rng.randrange(256)))] * rng.choice((0, 1, 1, 1)))
        if rng.random() < 0.7 and len(data) >= 24:
            struct.pack_into("<I", data, 4, len(data))
            struct.pack_into("<QQ", data, 8, part.generation, part.term)
        yield bytes(data)


def test_hostile_frames_harm_nobody(part):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    Partition(part.client, "k", RANGE, TIMED)
    other = Partition(part.client, "other", TABLE)
    kept = {bytes([i]): other.write(put(0, bytes([i]), b"v%d" % i)) for i in range(50)}
    samples = [part.frame(read(0, b"a"), read(1, b"b" * 64), group(
                   5, put(0, b"a", b"1"))),
               part.frame(group(6, check(0, b"a", 5), put(1, b"c", b"x" * 500, 1000),
                                delete(0, b"a")), read(1, b"c")),
               part.frame(*(read(0, bytes([i])) for i in range(100))),
               part.frame(pick(2, b"r", 100), touch(0, b"a"), group(
                   7, take(2, b"r", 100, 7), give(2, b"r", 8, 1000), add(0, b"n", 1))),
               part.frame(group(8, take(2, b"r", 65536, 8),
                                add(0, b"n", -1, -5, 5, 8, 16)),
                          group(9, settle(3, b"t", 10), put(3, b"t", b"", 100, rank=1)))]
    n_refused = 0
    for data in mutations(rng, samples, part, 20000):
        part.client.send("SNF.FRAME", "k", data)
        try:
            part.client.receive()
        except Refused as error:
            assert str(error).startswith(("ERR SNF", "SNF")), error
            n_refused += 1
    assert 1000 < n_refused < 20000
    for key, version in kept.items():
        assert other.ask(read(0, key)) == [(1, 1, version, b"v%d" % key[0])]
    assert sum(t["records"] for t in part.tables().values()) == len(dump(part))


def test_no_memory_refuses_puts_and_nothing_else(part):
    version = part.write(put(0, b"a", b"1"), put(0, b"b", b"1"))
    part.client("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1mb")
    got = part.ask(group(5, put(0, b"c", b"1")), read(0, b"a"), group(6, delete(0, b"b")))
    assert got == [REFUSED, (1, 1, version, b"1"), APPLIED]
    assert part.client.count("refused") == 1
    part.client("CONFIG", "SET", "maxmemory", "0")
    assert part.write(put(0, b"c", b"1"))


def test_no_memory_makes_no_partition_and_no_client(part):
    part.write(put(0, b"a", b"1"))
    part.client("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1mb")
    refused("ERR SNFNOMEM", part.client, "SNF.OPEN", "other", 2, 1)
    assert part.client("EXISTS", "other") == 0
    # What is there is opened, and read, by anybody.
    other = Partition(part.client, "k", TABLE, who=77)
    assert other.ask(read(0, b"a"))[0][3] == b"1"
    refused("ERR SNFNOMEM", part.client, "SNF.FRAME", "k",
            other.frame(group(5, delete(0, b"a"))))
    assert part.client.count("clients") == 1
    assert part.ask(group(6, delete(0, b"a"))) == [APPLIED]
    part.client("CONFIG", "SET", "maxmemory", "0")
    assert other.write(put(0, b"c", b"1"))


# --- The example in docs/protocol.md ---------------------------------------------------

def example():
    """The frame and its two replies, from their dumps."""
    with open(os.path.join(REPO, "docs", "protocol.md")) as file:
        text = file.read()
    text = text[text.index("## An example"):]
    lines = re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} ){7}[0-9a-f]{2})", text, re.M)
    found = []
    for offset, data in lines:
        if offset == "0000":
            found.append(b"")
        assert int(offset, 16) == len(found[-1])
        found[-1] += bytes.fromhex(data)
    return found


def test_the_documented_example_is_what_happens(server):
    client = server.client()
    part = Partition(client, "snf:{doc:0}", ("connection", 40, 8, 1))
    request, first, second = example()
    value = bytes(range(1, 9))

    def ops(version):
        return (read(0, b"key-1"), group(version, put(0, b"key-1", value, 30000),
                                         check(0, b"key-1", 0)), read(0, b"key-1"))
    generation, term, who = struct.unpack_from("<QQQ", request, 8)
    assert request == frame(generation, term, who, 1, *ops(0x0102030405060708))
    data = bytearray(request)
    struct.pack_into("<QQ", data, 8, part.generation, part.term)
    assert part.send(bytes(data)) == first
    hit = (1, 1, 0x0102030405060708, value)
    assert answers(part.send(bytes(data)), 1) == [hit, APPLIED, hit]
    assert part.send(frame(part.generation, part.term, who, 2, ops(9)[1])) == second


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
