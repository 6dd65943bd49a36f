"""test_store_show.py - the store as people see it, and who may see and do what: tables,
scans, INFO, users.  No root, no network.
"""
import os

import pytest

from store_client import (LEASED, RANGE, REPO, TABLE, TIMED, Partition, add, delete,
                          fill, group, needs_module, open_words, pick, put, read,
                          refused, server, take, wait_until)

pytestmark = needs_module


@pytest.fixture
def part(server):
    return Partition(server.client(), "k", TABLE, TIMED, RANGE)


def test_tables_are_counted_one_by_one(part):
    part.write(put(0, b"a", b"1"), put(0, b"b", b"1"), put(1, b"t", b"1", 100))
    part.ask(read(0, b"a"), read(0, b"none"), read(0, b"b", touch=False))
    part.due(timeout_ms=5000)
    tables = part.tables()
    assert list(tables) == [TABLE[0], TIMED[0], RANGE[0]]
    plain, timed = tables[TABLE[0]], tables[TIMED[0]]
    assert (plain["id"], plain["key_max"], plain["value_max"], plain["format"],
            plain["flags"], plain["limit"]) == (0, 16, 64, 1, 0, 0)
    assert [plain[n] for n in ("records", "reads", "hits", "writes")] == [2, 3, 2, 2]
    assert (timed["flags"], timed["records"], timed["due"], timed["leased"]) \
        == (LEASED, 1, 1, 1)
    assert set(plain) == {"name", "id", "format", "flags", "limit", "records", "due",
                          "reads", "hits", "writes", "expired", "leased", "settled",
                          "evicted", "full", "key_max", "value_max", "partitions"}
    assert plain["partitions"] == 1


def test_a_scan_shows_each_record_with_what_is_left(part):
    part.write(put(0, b"for ever", b"1", form=3), put(0, b"idle", b"22", 60000))
    found = {r.key: (idle, left, r) for idle, left, r in part.scan(0)}
    idle, left, forever = found.pop(b"for ever")
    assert (idle, left) == (0, 0) and forever[2:] == (3, forever.version, b"1")
    idle, left, record = found.pop(b"idle")
    assert 60000 <= idle <= 60200 and 55000 < left <= idle and record.value == b"22"
    assert not found


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_a_scan_meets_every_record_and_nothing_else(part, count):
    fill(part, 2000)
    part.write(*(put(1, b"%d" % i, b"x", 60000) for i in range(20)))
    assert sorted(r.key for _, _, r in part.scan(0, count)) == sorted(
        b"%d" % i for i in range(2000))
    assert {r.key for _, _, r in part.scan(1, count)} == {b"%d" % i for i in range(20)}
    assert list(part.scan(2, count)) == []


def test_a_scan_meets_what_stays_while_others_come_and_go(part):
    keys = {b"stay-%d" % i for i in range(3000)}
    for key in keys:
        part.write(put(0, key, b"1"))
    other = Partition(part.client, "k", TABLE)
    seen = set()
    for n, (_, _, record) in enumerate(part.scan(0, 50)):
        seen.add(record.key)
        if n % 3 == 0:
            other.write(put(0, b"go-%d" % n, b"2"), delete(0, b"go-%d" % (n - 30)))
    assert keys <= seen


def test_a_scan_does_not_hold_up_the_server(part):
    """By the server's own clock, over half a million records and the longest values."""
    fill(part, 500000, b"x" * 40)
    part.write(*(put(2, b"%d" % i, b"x" * 8200) for i in range(30)))
    part.client("CONFIG", "RESETSTAT")
    part.client("CONFIG", "SET", "latency-tracking-info-percentiles", "90")
    for table in range(3):
        for _ in part.scan(table):
            pass
    latency = part.client.info("latencystats")["latency_percentiles_usec_snf.scan"]
    # The rest is for the machine, which may take the CPU away at any time.
    assert float(latency.removeprefix("p90=")) < 1000


def test_info_counts_everything(part, server):
    part.write(add(0, b"n", 1))
    part.group(add(0, b"n", 1, 5, 6))
    part.write(take(2, b"r", 8, 3))
    part.ask(pick(2, b"r", 8), read(0, b"n"))
    info = part.client.info("snf")
    assert {name: int(info["snf_" + name]) for name in (
        "partitions", "records", "groups", "bounds", "conflicts", "clients", "terms",
        "waiters", "replicas", "due", "frames")} == dict(
            partitions=1, records=2, groups=3, bounds=1, conflicts=0, clients=1, terms=1,
            waiters=0, replicas=0, due=0, frames=4)
    for name in ("leased", "settled", "evicted", "full", "refused", "repeats", "expired",
                 "reads", "hits", "memory_bytes"):
        assert int(info["snf_" + name]) >= 0


def test_info_knows_how_long_frames_take(part):
    def times():
        info = part.client.info("snf")
        return [float(info["snf_frame_usec_" + name])
                for name in ("p50", "p99", "p999", "max")]
    assert times() == [0, 0, 0, 0]
    for _ in range(500):
        part.value(0, b"a")
    fill(part, 2000)
    few = times()
    assert 0 < few[0] <= few[1] <= few[2] <= few[3] < 1e6
    part.ask(*(read(0, b"%d" % (i % 2000)) for i in range(20000)))
    assert times()[3] > 10 * times()[0]


def test_partitions_are_known_by_their_new_names(part):
    part.write(put(0, b"a", b"1", 2000), put(1, b"t", b"1", 2000))
    part.client("RENAME", "k", "moved")
    wait_until(lambda: part.client.count("expired") == 2)
    part.key = "moved"
    assert len(part.due(timeout_ms=5000)) == 1
    assert part.client.count("partitions") == 1


# --- Users -----------------------------------------------------------------------------

INSTANCE = ("~snf:{%s:*}", "+snf.open", "+snf.frame", "+snf.mark", "+snf.due", "+wait",
            "+asking")
OPERATOR = ("~snf:*", "+snf.tables", "+snf.scan", "+info", "+readonly")


@pytest.fixture
def user(server):
    admin = server.client()

    def login(name, rules, store="edge"):
        admin("ACL", "SETUSER", name, "on", ">" + name, "resetkeys", "resetchannels",
              "-@all", *(rule % store if "%" in rule else rule for rule in rules))
        client = server.client()
        client("AUTH", name, name)
        return client
    return login


def test_the_documented_users_are_those_tested():
    with open(os.path.join(REPO, "docs", "protocol.md")) as file:
        text = " ".join(file.read().split())
    for rules, store in ((INSTANCE, "edge"), (OPERATOR, "")):
        words = " ".join(r % store if "%" in r else r for r in rules)
        assert "resetkeys resetchannels -@all " + words in text


def test_an_instance_needs_no_more_than_its_rights(user):
    client = user("edge", INSTANCE)
    part = Partition(client, "snf:{edge:0}", TABLE, TIMED)
    assert part.write(put(0, b"a", b"1"), put(1, b"t", b"1", 100))
    assert not part.committed(1, 1) and part.committed(0, 1)
    assert len(part.due(timeout_ms=5000)) == 1


def test_an_instance_touches_nothing_of_another_tenant(user):
    one, two = user("one", INSTANCE, "one"), user("two", INSTANCE, "two")
    part = Partition(one, "snf:{one:0}", TABLE)
    version = part.write(put(0, b"a", b"1"))
    for words in (("SNF.OPEN", part.key, *open_words(TABLE)),
                  ("SNF.FRAME", part.key, part.frame(group(9, delete(0, b"a")))),
                  ("SNF.MARK", part.key, part.term),
                  ("SNF.DUE", part.key, part.term, 1, 0),
                  ("SNF.TABLES", part.key), ("SNF.SCAN", part.key, 0, 0, 10),
                  ("SNF.EFFECTS", part.key, b""), ("DEL", part.key), ("DUMP", part.key),
                  ("RENAME", part.key, "snf:{two:0}"), ("FLUSHALL",), ("KEYS", "*"),
                  ("EVAL", "return 1", 0), ("CONFIG", "GET", "*"), ("INFO",)):
        refused("NOPERM", two, *words)
    for key in ("snf:{onetwo:0}", "snf:{one", "snf:{two}", "snf:two:0", "other"):
        refused("NOPERM", two, "SNF.OPEN", key, *open_words(TABLE))
    assert part.ask(read(0, b"a")) == [(1, 1, version, b"1")]


def test_an_operator_looks_and_does_not_touch(user):
    part = Partition(user("edge", INSTANCE), "snf:{edge:0}", TABLE)
    part.write(put(0, b"a", b"1"))
    watch = user("watch", OPERATOR)
    part.client = watch
    assert part.tables()[TABLE[0]]["records"] == 1
    assert [r.key for _, _, r in part.scan(0)] == [b"a"]
    assert watch.count("records") == 1
    refused("NOPERM", watch, "SNF.FRAME", part.key, part.frame(group(9, delete(0, b"a"))))
    refused("NOPERM", watch, "SNF.DUE", part.key, part.term, 1, 0)
    refused("NOPERM", watch, "DEL", part.key)
