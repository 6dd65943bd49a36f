"""test_store_ops.py - what frames do at the server: adding within bounds, ranges with
quarantine, limits and eviction; each against a model where that is worth it.  No root,
no network.
"""
import random
import struct
import time

import pytest

from store_client import (APPLIED, BOUND, CONFLICT, EVICT, FULL, INT_MAX, INT_MIN, MISS,
                          RANGE, TABLE, Partition, add, check, delete, give, group,
                          needs_module, open_words, pick, put, read, refused, server,
                          settle, take, touch, wait_until)

pytestmark = needs_module


@pytest.fixture
def part(server):
    return Partition(server.client(), "k", TABLE, RANGE)


def number(part, key, offset=0):
    return struct.unpack_from("<q", part.value(0, key), offset)[0]


# --- ADD -------------------------------------------------------------------------------

def test_adding_makes_a_record_and_keeps_to_its_bounds(part):
    assert part.group(add(0, b"n", 5, 0, 10)) == APPLIED
    assert part.group(add(0, b"n", 6, 0, 10)) == BOUND
    assert part.group(add(0, b"n", 5, 0, 10)) == APPLIED
    assert part.group(add(0, b"n", -11, 0, 10)) == BOUND
    assert part.group(add(0, b"n", -10, 0, 10)) == APPLIED
    assert number(part, b"n") == 0
    assert part.group(add(0, b"new", 1, 5, 10)) == BOUND
    assert part.value(0, b"new") is None
    assert part.client.count("bounds") == 3


def test_adding_does_not_overflow(part):
    assert part.group(add(0, b"n", INT_MAX)) == APPLIED
    assert part.group(add(0, b"n", 1)) == BOUND
    assert part.group(add(0, b"n", INT_MIN)) == APPLIED
    assert part.group(add(0, b"n", INT_MIN)) == BOUND
    assert number(part, b"n") == -1


def test_fields_of_one_value_are_added_to_in_one_group(part):
    version = part.write(put(0, b"n", struct.pack("<qqq", 1, 2, 3)))
    after = part.write(check(0, b"n", version), add(0, b"n", 10, offset=16, size=24),
                       add(0, b"n", 20, offset=0, size=24))
    assert part.ask(read(0, b"n")) == [(1, 1, after, struct.pack("<qqq", 21, 2, 13))]
    assert part.group(check(0, b"n", version), add(0, b"n", 1)) == CONFLICT
    assert part.group(put(0, b"other", b"1"), add(0, b"n", 1, 100, 200)) == BOUND
    assert part.value(0, b"other") is None


def test_adding_to_what_is_too_short_is_out_of_bounds(part):
    part.write(put(0, b"n", b"1234567"))
    assert part.group(add(0, b"n", 1)) == BOUND
    assert part.value(0, b"n") == b"1234567"


def test_counts_of_many_clients_are_exact(part, server):
    parts = [Partition(server.client(), "k", TABLE, RANGE) for _ in range(5)]
    for _ in range(100):
        for one in parts:
            one.client.send("SNF.FRAME", "k", one.frame(
                *(group(next(one.versions), add(0, b"n", 1)) for _ in range(20))))
        for one in parts:
            one.client.receive()
    assert number(part, b"n") == 10000


@pytest.mark.parametrize("ops", [
    [add(0, b"n", 1, 5, 4)], [add(0, b"n", 1, offset=1)], [add(0, b"n", 1, size=7)],
    [add(0, b"n", 1, size=72)], [add(0, b"n", 1, offset=65528, size=8)],
    [add(0, b"n", 1), add(0, b"n", 1)], [add(0, b"n", 1, size=16), add(
        0, b"n", 1, offset=4, size=16)], [add(0, b"n", 1), put(0, b"n", b"")],
    [add(0, b"n", 1), delete(0, b"n")], [add(0, b"n", 1), settle(0, b"n", 1)],
    [take(1, b"r", 10, 10)], [take(1, b"r", 0, 0)], [take(1, b"r", 65537, 0)],
    [take(0, b"r", 1000, 0)], [take(1, b"r", 10, 1), take(1, b"r", 10, 1)],
    [take(1, b"r", 10, 1), give(1, b"r", 1)], [take(1, b"r", 10, 1), delete(1, b"r")],
    [take(1, b"r", 10, 1), add(1, b"r", 1)], [give(1, b"r", 65536)],
    [read(0, b"a")], [touch(0, b"a")], [pick(1, b"r", 10)], [group(5)],
    [put(0, b"a", b"", rank=2)], [take(2, b"r", 10, 1)]])
def test_what_makes_no_sense_is_malformed(part, ops):
    refused("ERR SNFBAD", part.client, "SNF.FRAME", "k", part.frame(
        group(1, put(0, b"before", b"1")), group(2, *ops)))
    assert part.value(0, b"before") is None


# --- Ranges ----------------------------------------------------------------------------

def picked(part, n_members, key=b"r"):
    answer, = part.ask(pick(1, key, n_members))
    if answer == MISS:
        return None
    assert answer[:3] == (1, answer[1], 0)
    return struct.unpack("<I", answer[3])[0]


def test_take_give_and_take_again(part):
    assert part.group(take(1, b"r", 100, 7), put(0, b"owner", b"1")) == APPLIED
    assert part.group(take(1, b"r", 100, 7), put(0, b"owner", b"2")) == CONFLICT
    assert part.group(give(1, b"r", 8)) == CONFLICT
    assert part.group(give(1, b"r", 7), delete(0, b"owner")) == APPLIED
    assert part.group(give(1, b"r", 7)) == CONFLICT
    assert part.group(take(1, b"r", 100, 7)) == APPLIED
    assert part.group(give(1, b"none", 7)) == CONFLICT


def test_a_range_is_laid_out_as_documented_and_grows(part):
    part.write(take(1, b"r", 70, 3), take(1, b"r", 70, 69))
    assert part.value(1, b"r") == struct.pack("<IIQQ", 70, 2, 1 << 3, 1 << 5)
    part.write(take(1, b"r", 10, 4))
    part.write(take(1, b"r", 200, 199))
    assert part.value(1, b"r") == struct.pack("<IIQQQQ", 200, 4, 3 << 3, 1 << 5, 0,
                                              1 << 7)


def test_every_member_is_found_and_given_once(part):
    taken = set()
    for _ in range(1000):
        member = picked(part, 1000)
        assert part.group(take(1, b"r", 1000, member)) == APPLIED
        taken.add(member)
    assert taken == set(range(1000))
    assert picked(part, 1000) is None
    part.write(give(1, b"r", 500))
    assert picked(part, 1000) == 500


def test_picks_are_spread_and_differ(part):
    found = [struct.unpack("<I", a[3])[0]
             for _ in range(10) for a in part.ask(*[pick(1, b"r", 65536)] * 100)]
    assert len(set(found)) > 950
    assert all(200 < sum(q * 16384 <= m < (q + 1) * 16384 for m in found) < 300 + 50
               for q in range(4))


def test_a_member_in_quarantine_is_neither_free_nor_given_back(part):
    part.write(*(take(1, b"r", 3, member) for member in range(3)))
    start = time.monotonic()
    assert part.group(give(1, b"r", 1, quarantine_ms=1000)) == APPLIED
    assert picked(part, 3) is None
    assert part.group(take(1, b"r", 3, 1)) == CONFLICT
    assert part.group(give(1, b"r", 1)) == CONFLICT
    assert part.tables()["snf.quarantine"]["records"] == 1
    wait_until(lambda: picked(part, 3) == 1)
    assert 1 <= time.monotonic() - start < 2
    assert part.group(take(1, b"r", 3, 1)) == APPLIED
    assert part.tables()["snf.quarantine"]["records"] == 0


def test_the_modules_own_table_is_out_of_reach(part):
    part.write(take(1, b"r", 3, 1))
    part.write(give(1, b"r", 1, quarantine_ms=60000))
    own = part.tables()["snf.quarantine"]["id"]
    for op in (read(own, b"a"), group(1, delete(own, b"a")),
               group(1, put(own, b"a", b"")), pick(own, b"a", 10)):
        refused("ERR SNFBAD", part.client, "SNF.FRAME", "k", part.frame(op))
    refused("ERR SNFTABLE", part.client, "SNF.OPEN", "k",
            *open_words(("snf.quarantine", 16, 64, 1)))
    assert Partition(part.client, "k", ("later", 1, 1, 1)).ids == [own + 1]


def test_random_takes_and_gives_agree_with_a_model(part):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    taken = {b"a": set(), b"b": set()}
    for _ in range(3000):
        key, member = rng.choice((b"a", b"b")), rng.randrange(40)
        other = rng.choice((b"a", b"b"))
        got = rng.randrange(40)
        ops, right = [], True
        if rng.random() < 0.6:
            ops.append(take(1, key, 40, member))
            right &= member not in taken[key]
        else:
            ops.append(give(1, key, member))
            right &= member in taken[key]
        if rng.random() < 0.3 and (other, got) != (key, member):
            ops.append(take(1, other, 40, got))
            right &= got not in taken[other]
        else:
            got = None
        assert part.group(*ops) == (APPLIED if right else CONFLICT)
        if right:
            taken[key] ^= {member}
            taken[other] |= {got} - {None}
        free = picked(part, 40, key)
        assert free not in taken[key] and (free is not None or len(taken[key]) == 40)
    for key, members in taken.items():
        n_members, n_taken, bits = struct.unpack("<IIQ", part.value(1, key))
        assert (n_members, n_taken) == (40, len(members))
        assert bits == sum(1 << m for m in members)


# --- Limits ----------------------------------------------------------------------------

def test_a_full_table_refuses_new_records_only(server):
    part = Partition(server.client(), "k", ("small", 16, 64, 1, 0, 10), TABLE)
    for i in range(10):
        assert part.write(put(0, b"%d" % i, b"1"))
    assert part.group(put(0, b"new", b"1"), put(1, b"beside", b"1")) == FULL
    assert part.value(1, b"beside") is None
    assert part.group(add(0, b"new", 1)) == FULL
    assert part.group(put(0, b"3", b"2")) == APPLIED
    assert part.group(delete(0, b"3")) == APPLIED
    assert part.group(put(0, b"new", b"1")) == APPLIED
    assert part.client.count("full") == 2 and part.tables()["small"]["full"] == 2
    again = Partition(part.client, "k", ("small", 16, 64, 1, 0, 11))
    assert again.group(put(0, b"one more", b"1")) == APPLIED


def test_a_table_that_evicts_gives_up_the_least_valuable(server):
    part = Partition(server.client(), "k", ("flow", 16, 64, 1, EVICT, 100))
    for i in range(50):
        part.write(put(0, b"est-%d" % i, b"1", 60000, rank=1))
        part.write(put(0, b"half-%d" % i, b"1", 60000, rank=0))
    for i in range(50):
        assert part.write(put(0, b"new-%d" % i, b"1", 60000, rank=1))
    found = {r.key for _, _, r in part.scan(0)}
    assert len(found) == 100 and not any(key.startswith(b"half") for key in found)
    assert part.client.count("evicted") == part.tables()["flow"]["evicted"] == 50
    for i in range(1000):
        assert part.write(put(0, b"flood-%d" % i, b"1", 5000, rank=0))
    found = {r.key for _, _, r in part.scan(0)}
    assert len(found) == 100 and sum(k.startswith((b"est", b"new")) for k in found) >= 99


def test_what_lives_for_ever_is_not_evicted(server):
    part = Partition(server.client(), "k", ("flow", 16, 64, 1, EVICT, 10))
    for i in range(10):
        part.write(put(0, b"%d" % i, b"1"))
    assert part.group(put(0, b"new", b"1", 1000)) == FULL
    assert part.client.count("records") == 10
