"""test_chaos_checker.py - the checker of tests/chaos sees what it is there to see: made-up
histories, good ones and, for each property, ones that break it.  No server, no root.
"""
import json
import os
import struct
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../chaos"))
import checker
from history import value_of

MS = 1_000_000
KEY, OTHER, COUNTER, RANGE = ((n).to_bytes(4, "little") for n in (1, 2, 3, 0))
TIMER = (77).to_bytes(8, "little")


def hold(member):
    return RANGE + member.to_bytes(4, "little")


class Tale:
    """What clients would have written down; and what a store would hold that applied the
    groups in the order told.  Times are in ms."""

    def __init__(self):
        self.lines, self.records, self.strict = [], {}, False
        self.last = 0

    def say(self, *words):
        self.lines.append(" ".join(map(str, words)))

    def group(self, start, end, *ops, answer="applied", effective=None, journal=True):
        """Returns its version.  Ops are words of a history, None for the version."""
        self.last += 1
        version = 0x100_0000_0000 + self.last
        if journal:
            key = struct.pack("<QQ", 0, version)
            ops += (f"p/j/{key.hex()}/0",)
        self.say("G", start * MS, f"{version:x}", 0, *ops)
        if end is not None:
            self.say("A", end * MS, f"{version:x}", 0, answer)
        if effective if effective is not None else answer == "applied":
            for op in ops:
                self.apply(version, *op.split("/"))
        return version

    def apply(self, version, op, table, key, *args):
        at = table, bytes.fromhex(key)
        if op == "p":
            self.records[at] = version, value_of(table, version)
        elif op in "ds":
            self.records.pop(at, None)
        elif op == "a":
            fields = list(struct.unpack("<qq", self.records.get(at, (0, bytes(16)))[1]))
            fields[int(args[0]) // 8] += int(args[1])
            self.records[at] = version, struct.pack("<qq", *fields)
        elif op in "tg":
            _, _, bits = struct.unpack("<IIQ", self.records.get(at, (0, bytes(16)))[1])
            bits = bits | 1 << int(args[0]) if op == "t" else bits & ~(1 << int(args[0]))
            self.records[at] = version, struct.pack("<IIQ", 12, bits.bit_count(), bits)

    def write(self, start, end, replaces, key=KEY, **how):
        return self.group(start, end, f"c/k/{key.hex()}/{replaces:x}",
                          f"p/k/{key.hex()}/0", **how)

    def add(self, start, end, delta, **how):
        return self.group(start, end, f"a/c/{COUNTER.hex()}/0/{delta}/0/40", **how)

    def take(self, start, end, member, **how):
        return self.group(start, end, f"t/r/{RANGE.hex()}/{member}",
                          f"c/h/{hold(member).hex()}/0", f"p/h/{hold(member).hex()}/0",
                          **how)

    def give(self, start, end, member, take, quarantine_ms=0, **how):
        at = hold(member).hex()
        return self.group(start, end, f"c/h/{at}/{take:x}", f"d/h/{at}",
                          f"g/r/{RANGE.hex()}/{member}/{quarantine_ms}", **how)

    def arm(self, start, end, idle_ms, **how):
        return self.group(start, end, f"p/t/{TIMER.hex()}/{idle_ms}", **how)

    def settle(self, start, end, version, **how):
        return self.group(start, end, f"s/t/{TIMER.hex()}/{version:x}",
                          f"a/c/{COUNTER.hex()}/8/1/0/40", **how)

    def read(self, start, end, version, value, table="k", key=KEY):
        self.last += 1
        self.say("R", start * MS, f"{self.last:x}", 0, f"r/{table}/{key.hex()}")
        hit = f"hit/{version:x}/{value.hex()}" if version else "miss"
        self.say("V", end * MS, f"{self.last:x}", 0, hit)

    def lease(self, time, version):
        self.say("L", time * MS, 0, 5,
                 f"{TIMER.hex()}/{version:x}/{value_of('t', version).hex()}")

    def judge(self, folder):
        (folder / "1.0.history").write_text("".join(f"{line}\n" for line in self.lines))
        with open(folder / "final.txt", "w") as file:
            for (table, key), (version, value) in self.records.items():
                file.write(f"0 {table} {key.hex()} {version:x} {value.hex()}\n")
        with open(folder / "run.json", "w") as file:
            json.dump({"strict": self.strict, "problems": []}, file)
        found, _ = checker.check(folder)
        return found

    def drop(self, table, key):
        del self.records[table, key]


# --- Good ones ---------------------------------------------------------------------------

def a_bit_of_everything(t):
    one = t.write(0, 5, 0)
    two = t.write(10, 15, one)
    t.read(12, 14, two, value_of("k", two))
    t.write(12, 20, one, answer="conflict")
    t.add(20, 21, 30)
    t.add(22, 23, 30, answer="bound")
    taken = t.take(30, 31, 4)
    t.take(30, 33, 4, answer="conflict")
    t.give(40, 41, 4, taken, 200)
    t.take(300, 301, 4)
    timer = t.arm(400, 401, 100)
    t.lease(700, timer)
    t.settle(701, 702, timer)
    t.settle(705, 707, timer, answer="conflict")


def an_unknown_one_may_have_had_an_effect(t):
    one = t.write(0, None, 0, effective=True)
    t.write(10, 11, one)


def an_unknown_one_may_have_had_none(t):
    t.write(0, None, 0, effective=False)
    t.write(1, 11, 0)


def a_plain_read_may_see_what_a_failover_loses(t):
    lost = t.write(0, None, 0, effective=False)
    t.read(3, 4, lost, value_of("k", lost))
    t.write(10, 11, 0)


def a_conflict_with_a_neighbour(t):
    one = t.write(0, 1, 0)
    t.write(2, 9, one)
    t.write(3, 8, one, answer="conflict")


def a_bound_that_a_neighbour_may_have_caused(t):
    t.add(0, 10, 30)
    t.add(5, 8, 20, answer="bound")


# --- Bad ones ----------------------------------------------------------------------------

def an_acknowledged_write_is_lost(t):
    t.write(0, 1, 0, effective=False)


def an_acknowledged_write_without_a_journal_is_lost(t):
    one = t.write(0, 1, 0)
    t.write(2, 3, one, journal=False, effective=False)


def a_conflict_had_an_effect(t):
    t.write(0, 1, 0, answer="conflict", effective=True)


def what_was_never_sent_had_an_effect(t):
    t.write(0, 1, 0, answer="unsent", effective=True)


def a_conflict_without_a_reason(t):
    one = t.write(0, 1, 0)
    t.write(2, 3, one, answer="conflict")
    t.write(4, 5, one)


def a_take_in_conflict_with_nobody(t):
    t.give(5, 6, 1, t.take(0, 1, 1))
    t.take(10, 11, 1, answer="conflict")


def a_give_in_conflict_though_it_is_the_holder(t):
    t.give(5, 6, 1, t.take(0, 1, 1), answer="conflict")


def a_counter_in_conflict_with_nobody(t):
    one = t.add(0, 1, 5)
    t.group(2, 3, f"c/c/{COUNTER.hex()}/{one:x}", f"a/c/{COUNTER.hex()}/0/1/0/40",
            answer="conflict")


def a_bound_without_a_reason(t):
    t.add(0, 1, 30)
    t.add(5, 8, 5, answer="bound")


def a_refusal(t):
    t.add(0, 1, 5, answer="refused")


def two_winners(t):
    one = t.write(0, 1, 0)
    t.write(2, 5, one)
    t.write(2, 5, one)


def two_winners_of_a_counter(t):
    one = t.add(0, 1, 1)
    for _ in range(2):
        t.group(2, 5, f"c/c/{COUNTER.hex()}/{one:x}", f"a/c/{COUNTER.hex()}/0/1/0/40")


def half_a_group(t):
    both = t.group(0, 1, *(word for key in (KEY, OTHER) for word in
                           (f"c/k/{key.hex()}/0", f"p/k/{key.hex()}/0")))
    t.write(2, 3, 0, OTHER)
    assert t.records["k", KEY][0] == both


def a_group_without_its_journal_record(t):
    one = t.write(0, None, 0, effective=True)
    t.drop("j", struct.pack("<QQ", 0, one))


def write_skew(t):
    """Each reads what the other writes: neither can have been first."""
    for mine, other in ((KEY, OTHER), (OTHER, KEY)):
        t.group(0, 10, f"c/k/{mine.hex()}/0", f"c/k/{other.hex()}/0",
                f"p/k/{mine.hex()}/0")


def an_order_against_time(t):
    """The second one to be asked for was replaced by the first, which had ended."""
    t.last = 1
    late = t.write(50, 60, 0)
    t.last = 0
    t.write(0, 10, late)
    t.last = 2


def a_stale_check_in_time(t):
    """It checked a version that had been replaced before it began."""
    one = t.write(0, 1, 0)
    t.write(2, 3, one)
    t.group(10, 11, f"c/k/{KEY.hex()}/{one:x}")


def a_stale_read(t):
    t.strict = True
    one = t.write(0, 1, 0)
    t.write(2, 3, one)
    t.read(10, 11, one, value_of("k", one))


def a_value_that_nobody_wrote(t):
    t.read(10, 11, 0xbad, value_of("k", 0xbad))


def a_value_of_another_version(t):
    one = t.write(0, 1, 0)
    two = t.write(2, 3, one)
    t.read(4, 5, two, value_of("k", one))


def a_value_before_it_was_written(t):
    t.write(10, 20, 0)
    t.read(4, 5, 0x100_0000_0001, value_of("k", 0x100_0000_0001))


def a_value_of_what_was_never_sent(t):
    one = t.write(0, 1, 0, answer="unsent")
    t.read(4, 5, one, value_of("k", one))


def a_record_that_nobody_wrote_at_the_end(t):
    t.records["t", TIMER] = 0xbad, value_of("t", 0xbad)


def a_journal_record_that_nobody_wrote(t):
    t.records["j", struct.pack("<QQ", 0, 0xbad)] = 0xbad, value_of("j", 0xbad)


def a_count_is_missing(t):
    one = t.add(0, 1, 5)
    t.add(2, 3, 5)
    t.records["c", COUNTER] = one, struct.pack("<qq", 5, 0)


def a_count_happened_twice(t):
    one = t.add(0, 1, 5)
    t.records["c", COUNTER] = one, struct.pack("<qq", 10, 0)


def a_counter_read_out_of_its_bounds(t):
    one = t.add(0, 1, 5)
    t.read(2, 3, one, struct.pack("<qq", 41, 0), "c", COUNTER)


def two_holders(t):
    first = t.take(0, 1, 7)
    t.take(5, 6, 7)
    t.give(10, 11, 7, first)


def two_holders_for_ever(t):
    t.take(0, 1, 7)
    t.take(5, 6, 7)


def a_holder_within_the_quarantine(t):
    t.give(5, 6, 7, t.take(0, 1, 7), 200)
    t.take(100, 150, 7)


def a_bit_that_nobody_holds(t):
    one = t.take(0, 1, 7)
    t.records["r", RANGE] = one, struct.pack("<IIQ", 12, 2, 1 << 7 | 1 << 2)


def a_bit_that_is_not_set(t):
    t.take(0, 1, 7)
    last = t.take(2, 3, 8)
    t.records["r", RANGE] = last, struct.pack("<IIQ", 12, 1, 1 << 8)


def a_wrong_number_of_taken(t):
    one = t.take(0, 1, 7)
    t.records["r", RANGE] = one, struct.pack("<IIQ", 12, 3, 1 << 7)


def a_hold_is_left(t):
    taken = t.take(0, 1, 7)
    t.give(2, 3, 7, taken)
    t.records["h", hold(7)] = taken, value_of("h", taken)


def a_timer_with_two_effects(t):
    timer = t.arm(0, 1, 100)
    t.settle(300, 301, timer)
    t.settle(302, 303, timer)


def a_timer_too_early(t):
    t.settle(50, 90, t.arm(0, 1, 100))


def a_lease_too_early(t):
    timer = t.arm(0, 1, 100)
    t.lease(90, timer)
    t.settle(300, 301, timer)


def a_timer_in_spite_of_a_touch(t):
    t.strict = True
    timer = t.arm(0, 1, 100)
    t.read(80, 81, timer, value_of("t", timer), "t", TIMER)
    t.settle(150, 160, timer)


def a_timer_that_never_fires(t):
    t.arm(0, 1, 100)


def a_timer_that_is_lost(t):
    t.arm(0, 1, 100)
    t.drop("t", TIMER)


def a_timer_settled_that_was_never_set(t):
    t.settle(300, 301, t.arm(0, None, 100, effective=False))


@pytest.mark.parametrize("tell", [
    a_bit_of_everything, an_unknown_one_may_have_had_an_effect,
    an_unknown_one_may_have_had_none, a_plain_read_may_see_what_a_failover_loses,
    a_conflict_with_a_neighbour, a_bound_that_a_neighbour_may_have_caused])
def test_fine(tell, tmp_path):
    tale = Tale()
    tell(tale)
    assert tale.judge(tmp_path) == []


BAD = {
    "V1": [an_acknowledged_write_is_lost, an_acknowledged_write_without_a_journal_is_lost,
           a_conflict_had_an_effect, what_was_never_sent_had_an_effect,
           a_conflict_without_a_reason, a_take_in_conflict_with_nobody,
           a_give_in_conflict_though_it_is_the_holder, a_counter_in_conflict_with_nobody,
           a_bound_without_a_reason, a_refusal],
    "V2": [two_winners, two_winners_of_a_counter],
    "V3": [half_a_group, a_group_without_its_journal_record, two_winners],
    "V4": [write_skew, an_order_against_time, a_stale_check_in_time, a_stale_read],
    "V5": [a_value_that_nobody_wrote, a_value_of_another_version,
           a_value_before_it_was_written, a_value_of_what_was_never_sent,
           a_record_that_nobody_wrote_at_the_end, a_journal_record_that_nobody_wrote],
    "V6": [a_count_is_missing, a_count_happened_twice, a_counter_read_out_of_its_bounds],
    "V7": [two_holders, two_holders_for_ever, a_holder_within_the_quarantine,
           a_bit_that_nobody_holds, a_bit_that_is_not_set, a_wrong_number_of_taken,
           a_hold_is_left],
    "V8": [a_timer_with_two_effects, a_timer_too_early, a_lease_too_early,
           a_timer_in_spite_of_a_touch, a_timer_that_never_fires, a_timer_that_is_lost,
           a_timer_settled_that_was_never_set],
}


@pytest.mark.parametrize("wanted, tell", [(v, tell) for v, tales in BAD.items()
                                          for tell in tales],
                         ids=lambda x: getattr(x, "__name__", x))
def test_seen(wanted, tell, tmp_path):
    tale = Tale()
    tell(tale)
    found = tale.judge(tmp_path)
    assert any(line.startswith(wanted) for line in found), found
