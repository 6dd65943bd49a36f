#!/usr/bin/python3
"""checker.py - judges what clients of the store were told while it was being broken, by
what is there in the end.

    checker.py FOLDER...

A group is *effective* if its record in the journal is there, or, for the few that write
none, if its version lies on the chain of versions of a key that it wrote.  A chain is
known exactly: every write of a key names the version that it replaces.

    V1  Answers are true: what was acknowledged is there, what was said to have had no
        effect, or was never sent, is not; and no answer comes without a reason.
    V2  One winner: no two effective groups replaced the same version of a record.
    V3  Groups are atomic: an effective group's writes are all there.
    V4  There is a serial order: "came before" among effective groups, by what they
        wrote and by what they checked, has no cycle, together with real time: what had
        ended before another began is before it.
    V5  Every value read was written by someone who had begun, and is as it was written.
    V6  Counters are the sums of the effective groups, and within their bounds.
    V7  A member of a range has one holder at a time and none in its quarantine; the
        range agrees with the journal.
    V8  A timer has one effect, not before its time, and none is lost.
    V9  A replica that is in sync has the same records.  (chaos.py compares them.)

A read that no effective group checked is held to V5 alone: reads do not wait for
replicas, so they may see what a failover then loses, or come from a primary that is one
no more without knowing.  With a single server ("strict") they are part of V4, and so
are the touches that they are in V8.

Times are intervals, from before a thing was asked to after it was answered: a violation
is one whatever happened in between.
"""
import bisect
import itertools
import math
import os
import struct
import sys
from collections import defaultdict

import history as histories
from history import MS, value_of

WORDS = ("applied", "conflict", "bound", "unknown", "unsent")
N_MEMBERS = 12
RENEWED = 30_000  # ms that restarts and promotions may add to a quarantine.


class Sums:
    """How much was added to a counter's field by when, at least and at most."""

    def __init__(self, adds):
        """Adds are (start, end, delta)."""
        self.ended = self._sums((end, delta) for _, end, delta in adds)
        self.began = self._sums((start, delta) for start, _, delta in adds)

    @staticmethod
    def _sums(changes):
        changes = sorted(changes)
        return ([time for time, _ in changes],
                [0, *itertools.accumulate(min(d, 0) for _, d in changes)],
                [0, *itertools.accumulate(max(d, 0) for _, d in changes)])

    def range(self, start, end):
        """The values that the field may have had between these times."""
        times, low, high = self.ended
        before = bisect.bisect_left(times, start)
        certain = low[before] + high[before]
        times, began_low, began_high = self.began
        by_then = bisect.bisect_right(times, end)
        return (certain + began_low[by_then] - low[before],
                certain + began_high[by_then] - high[before])


class Checker:
    def __init__(self, history):
        self.h = history
        self.found = list(history.problems)
        self.records = {(r.table, r.key): r for r in history.final}
        self.journal = {}
        self.chains = {}            # Key of table k: version to the one it replaced.
        self.after = {}             # (key, version): the next version, None at the end.
        self.effective = {}
        self._chains()
        self._effective()
        self.adds = self._by_field()
        self.tops = {o.key: o.args[3] for group in history.groups.values()
                     for o in group.only("a")}
        self.holdings = self._holdings()

    def wrong(self, property_, text):
        self.found.append(f"{property_}: {text}")

    def run(self):
        for check in (self.answers, self.winners, self.atomic, self.order, self.values,
                      self.counters, self.ranges, self.timers, self.reasons):
            check()
        return self.found

    # --- What happened --------------------------------------------------------------

    def _chains(self):
        """Walks from what each key has at the end to its first write."""
        for record in self.h.final:
            if record.table != "k":
                continue
            chain, version = {}, record.version
            while version != 0:
                group = self.h.groups.get(version)
                replaced = group and self.replaced(group, record.key)
                if replaced is None:
                    self.wrong("V5", f"key {record.key.hex()} has had version "
                               f"{version:x}, which nobody wrote")
                    break
                if version in chain:
                    self.wrong("V2", f"versions of key {record.key.hex()} go round")
                    break
                chain[version] = replaced
                version = replaced
            self.chains[record.key] = chain
            self.after[record.key, record.version] = None
            for version, replaced in chain.items():
                self.after[record.key, replaced] = version

    @staticmethod
    def replaced(group, key):
        """The version of the key that this group replaced; None: it wrote it not."""
        if not any(o.key == key for o in group.only("p", "k")):
            return None
        return next(o.args[0] for o in group.only("c", "k") if o.key == key)

    def _effective(self):
        for record in self.h.final:
            if record.table != "j":
                continue
            _, version = struct.unpack("<QQ", record.key)
            group = self.h.groups.get(version)
            self.journal[version] = record
            if group is None or record.version != version or \
                    not any(o.key == record.key for o in group.only("p", "j")):
                self.wrong("V5", f"journal record {record.key.hex()} of version "
                           f"{record.version:x}, which nobody wrote")
            else:
                self.effective[version] = group
        for version in itertools.chain.from_iterable(self.chains.values()):
            group = self.h.groups[version]
            if not group.only("p", "j"):
                self.effective[version] = group

    def _by_field(self):
        adds = defaultdict(list)
        for group in self.effective.values():
            for o in group.only("a"):
                adds[o.key, o.args[0]].append((group.start, group.end, o.args[1]))
        return adds

    def _holdings(self):
        """(range, member): pairs of TAKE and GIVE, or None."""
        gives, holdings = {}, defaultdict(list)
        for group in self.effective.values():
            for o in group.only("g"):
                hold, = group.only("c", "h")
                gives[hold.args[0]] = group
        for group in self.effective.values():
            for o in group.only("t", "r"):
                holdings[o.key, o.args[0]].append((group, gives.get(group.id)))
        return holdings

    # --- V1 to V3 --------------------------------------------------------------------

    def answers(self):
        for group in self.h.groups.values():
            if group.answer not in WORDS:
                self.wrong("V1", f"nothing was wrong with group {group}")
            elif group.answer == "applied" and group.id not in self.effective:
                self.wrong("V1", f"acknowledged and lost: {group}")
            elif group.answer not in ("applied", "unknown") and \
                    group.id in self.effective:
                self.wrong("V1", f"had an effect all the same: {group}")

    def winners(self):
        winners = {}
        for group in self.effective.values():
            written = {(o.table, o.key) for o in group.only("pda")}
            for o in group.only("c"):
                # Absence can be replaced again, after a deletion.
                if (o.table, o.key) not in written or (o.table, o.args[0]) == ("h", 0):
                    continue
                other = winners.setdefault((o.table, o.key, o.args[0]), group)
                if other is not group:
                    self.wrong("V2", f"version {o.args[0]:x} of {o.table}/{o.key.hex()} "
                               f"was replaced by {other} and by {group}")

    def atomic(self):
        for group in self.effective.values():
            for o in group.only("p", "k"):
                if group.id not in self.chains.get(o.key, ()):
                    self.wrong("V3", f"key {o.key.hex()} never had the version of {group}")
        for key, chain in self.chains.items():
            for version in chain:
                if version not in self.effective:
                    self.wrong("V3", f"key {key.hex()} had the version of "
                               f"{self.h.groups[version]}, whose journal record is missing")

    # --- V4 --------------------------------------------------------------------------

    def edges(self):
        """Pairs of group numbers, or of anything that stands for more."""
        for group in self.effective.values():
            for o in group.only("cs"):
                yield from self.edges_of(group, o.table, o.key, o.args[0])
        if not self.h.strict:
            return
        for reads in self.h.reads.values():
            for o, result in zip(reads.only("re"), reads.results or ()):
                if result[0] in ("hit", "miss") and o.table == "k":
                    yield from self.edges_of(reads, o.table, o.key, result[1])

    def edges_of(self, asked, table, key, version):
        """Someone saw this version: it is there already, and the next is not."""
        if version in self.effective:
            yield version, asked.id
        following = self.after.get((key, version)) if table == "k" else None
        if following not in (None, asked.id):
            yield asked.id, following

    def in_time(self):
        """Real time as edges, through a node for each end."""
        asked = list(self.effective.values())
        if self.h.strict:
            asked += [r for r in self.h.reads.values() if r.results]
        ends = sorted({a.end for a in asked if a.end != math.inf})
        for i in range(1, len(ends)):
            yield ("end", i - 1), ("end", i)
        for a in asked:
            if a.end != math.inf:
                yield a.id, ("end", bisect.bisect_left(ends, a.end))
            ended = bisect.bisect_left(ends, a.start)
            if ended > 0:
                yield ("end", ended - 1), a.id

    def order(self):
        following, n_before = defaultdict(set), defaultdict(int)
        for one, other in itertools.chain(self.edges(), self.in_time()):
            if one != other and other not in following[one]:
                following[one].add(other)
                n_before[other] += 1
        ready = [node for node in list(following) if n_before[node] == 0]
        while ready:
            for node in following[ready.pop()]:
                n_before[node] -= 1
                if n_before[node] == 0:
                    ready.append(node)
        left = {node for node, n in n_before.items() if n > 0}
        if left:
            self.wrong("V4", "no serial order: " + self.cycle(left, following))

    def cycle(self, left, following):
        """Every node that is left has one before it that is left."""
        before = {other: one for one in left for other in following[one] if other in left}
        node, path = next(iter(left)), []
        while node not in path:
            path.append(node)
            node = before[node]
        path = [*reversed(path[path.index(node):])]
        asked = [self.h.groups.get(n) or self.h.reads.get(n)
                 for n in path if not isinstance(n, tuple)]
        return " before ".join(map(repr, asked)) + " before the first"

    # --- V5 --------------------------------------------------------------------------

    def writer(self, table, key, version, by):
        """Complains unless that version of the record can have been seen by then."""
        group = self.h.groups.get(version)
        letter = {"c": "a", "r": "tg"}.get(table, "p")
        if group is None or not any(o.key == key for o in group.only(letter, table)):
            return "which nobody wrote"
        if group.start > by:
            return f"before it was written by {group}"
        if group.answer == "unsent":
            return f"but it was never sent: {group}"
        return None

    def seen(self, who, table, key, version, value, by):
        why = self.writer(table, key, version, by)
        if why is None and table in "khjt" and value != value_of(table, version):
            why = f"with the value {value.hex()}"
        if why is None and table == "c" and not self.in_bounds(key, value):
            why = f"out of bounds: {value.hex()}"
        if why is not None:
            self.wrong("V6" if table == "c" and "bounds" in why else "V5",
                       f"{who} saw version {version:x} of {table}/{key.hex()}, {why}")

    def in_bounds(self, key, value):
        top = self.tops.get(key, math.inf)
        return len(value) == 16 and all(0 <= n <= top for n in struct.unpack("<qq", value))

    def values(self):
        for reads in self.h.reads.values():
            for o, (word, version, value) in zip(reads.only("rek"), reads.results or ()):
                if word == "hit" and o.op != "k":
                    self.seen(reads, o.table, o.key, version, value, reads.end)
                elif word not in ("hit", "miss", "unknown", "unsent"):
                    self.wrong("V1", f"nothing was wrong with reads {reads}")
        for lease in self.h.leases:
            self.seen(f"a lease of {lease.client}", "t", lease.key, lease.version,
                      lease.value, lease.time)
        for record in self.h.final:
            self.seen("the end", record.table, record.key, record.version, record.value,
                      math.inf)
            group = self.h.groups.get(record.version)
            if group is not None and group.partition != record.partition:
                self.wrong("V5", f"the record of {group} in partition {record.partition}")

    # --- V6 --------------------------------------------------------------------------

    def counters(self):
        for key in {key for key, _ in self.adds} | {r.key for r in self.h.final
                                                    if r.table == "c"}:
            want = [sum(d for _, _, d in self.adds[key, at]) for at in (0, 8)]
            record = self.records.get(("c", key))
            have = list(struct.unpack("<qq", record.value)) if record else [0, 0]
            if have != want:
                self.wrong("V6", f"counter {key.hex()} is {have}, its effective groups "
                           f"make {want}")

    # --- V7 --------------------------------------------------------------------------

    def ranges(self):
        held = defaultdict(set)
        for (key, member), holdings in self.holdings.items():
            for one, other in itertools.combinations(holdings, 2):
                if not (self.apart(one, other) or self.apart(other, one)):
                    self.wrong("V7", f"member {member} of range {key.hex()} was held by "
                               f"{one[0]}, given back by {one[1]}, and by {other[0]}, "
                               f"given back by {other[1]}, at once or in quarantine")
            for take, give in holdings:
                hold = self.records.get(("h", take.only("p", "h")[0].key))
                if give is None:
                    held[key].add(member)
                if (hold is not None and hold.version == take.id) != (give is None):
                    self.wrong("V7", f"the hold that {take} wrote and {give} deleted")
        for record in self.h.final:
            if record.table == "r":
                self.bitmap(record, held.pop(record.key, set()))
        for key, members in held.items():
            if members:
                self.wrong("V7", f"range {key.hex()} is gone, {members} are held")

    @staticmethod
    def apart(one, other):
        """Whether the other can have taken what the one had given back."""
        give = one[1]
        if give is None:
            return False
        quarantine = give.only("g")[0].args[1] * MS
        return give.start + quarantine <= other[0].end

    def bitmap(self, record, held):
        n, taken, bits = struct.unpack("<IIQ", record.value)
        have = {i for i in range(64) if bits >> i & 1}
        if n != N_MEMBERS or have != held or taken != len(have):
            self.wrong("V7", f"range {record.key.hex()} says {taken} of {n}: "
                       f"{sorted(have)}, but {sorted(held)} are held")

    # --- V8 --------------------------------------------------------------------------

    def timers(self):
        settled = defaultdict(list)
        for group in self.effective.values():
            for o in group.only("s"):
                settled[o.key, o.args[0]].append(group)
        due = {}
        for group in self.effective.values():
            for o in group.only("p", "t"):
                due[o.key, group.id] = group.start + o.args[0] * MS
                self.timer(o.key, group, settled.pop((o.key, group.id), []))
        for (key, version), groups in settled.items():
            self.wrong("V8", f"timer {key.hex()} of version {version:x} was never set, "
                       f"but settled by {groups}")
        for lease in self.h.leases:
            self.not_before("leased", lease, lease.time,
                            due.get((lease.key, lease.version), 0))
        self.touched()

    def timer(self, key, group, settled):
        name = f"timer {key.hex()} of {group}"
        record = self.records.get(("t", key))
        if len(settled) > 1:
            self.wrong("V8", f"{name} had its effect by {settled}")
        if not settled:
            there = record is not None and record.version == group.id
            self.wrong("V8", f"{name} {'never fired' if there else 'is lost'}")
        for by in settled:
            idle = next(o.args[0] for o in group.only("p", "t") if o.key == key)
            self.not_before("settled", by, by.end, group.start + idle * MS)

    def not_before(self, what, which, time, due):
        if time < due:
            self.wrong("V8", f"{what} {(due - time) / MS:.1f} ms before its time: {which}")

    def touched(self):
        """A touch that saw a timer puts its effect off, whoever settles it."""
        if not self.h.strict:
            return
        last = {}
        for reads in self.h.reads.values():
            for o, result in zip(reads.only("re"), reads.results or ()):
                if (o.op, o.table, result[0]) == ("r", "t", "hit"):
                    at = o.key, result[1]
                    last[at] = max(last.get(at, 0), reads.start)
        for group in self.effective.values():
            for o in group.only("s"):
                setter = self.h.groups.get(o.args[0])
                if setter is None or (o.key, o.args[0]) not in last:
                    continue
                idle, = (p.args[0] for p in setter.only("p", "t") if p.key == o.key)
                self.not_before("settled, after a touch,", group, group.end,
                                last[o.key, o.args[0]] + idle * MS)

    # --- Why a group had no effect ------------------------------------------------------

    def reasons(self):
        self.sums = {field: Sums(adds) for field, adds in self.adds.items()}
        self.changed = {key: (sorted(s for s, _, _ in adds), sorted(e for _, e, _ in adds))
                        for key, adds in self.adds_of_records().items()}
        for group in self.h.groups.values():
            if group.answer == "bound" and not self.may_bound(group):
                self.wrong("V1", f"out of no bounds: {group}")
            if group.answer == "conflict" and not self.may_conflict(group):
                self.wrong("V1", f"in conflict with nothing: {group}")

    def adds_of_records(self):
        adds = defaultdict(list)
        for (key, _), some in self.adds.items():
            adds[key] += some
        return adds

    def may_bound(self, group):
        for o in group.only("a"):
            offset, delta, low, high = o.args
            sums = self.sums.get((o.key, offset), Sums([]))
            least, most = sums.range(group.start, group.end)
            if least + delta < low or most + delta > high:
                return True
        return False

    def may_conflict(self, group):
        return any(getattr(self, f"may_fail_{o.op}_{o.table}")(group, o)
                   for o in group.only("cst") + group.only("g"))

    def may_fail_c_k(self, group, o):
        """Unless it had been written before, and was replaced only later."""
        version = o.args[0]
        if o.key not in self.chains:
            return version != 0
        if (o.key, version) not in self.after:
            return True
        following = self.after[o.key, version]
        return (version != 0 and self.h.groups[version].end >= group.start) or \
            (following is not None and self.h.groups[following].start <= group.end)

    def may_fail_c_c(self, group, o):
        """Unless its writer had ended, and all others were before that or later."""
        writer = self.effective.get(o.args[0])
        if writer is not None and writer.end >= group.start:
            return True
        if writer is None and o.args[0] != 0:
            return True
        starts, ends = self.changed.get(o.key, ([], []))
        before = bisect.bisect_left(ends, writer.start) if writer else 0
        own = len({a.args[0] for a in writer.only("a") if a.key == o.key}) if writer else 0
        return bisect.bisect_right(starts, group.end) > before + own

    def may_fail_c_h(self, group, o):
        version = o.args[0]
        if version == 0:
            return False            # The TAKE beside it is judged by the same.
        take = self.effective.get(version)
        if take is None or take.end >= group.start:
            return True
        key = group.only("g")[0].key, group.only("g")[0].args[0]
        return any(t is take and g is not None and g.start <= group.end
                   for t, g in self.holdings[key])

    def may_fail_t_r(self, group, o):
        for take, give in self.holdings.get((o.key, o.args[0]), ()):
            until = math.inf
            if give is not None:
                quarantine = give.only("g")[0].args[1]
                until = give.end + (quarantine + RENEWED if quarantine else 0) * MS
            if take.start <= group.end and until >= group.start:
                return True
        return False

    def may_fail_g_r(self, _group, _o):
        return False                # Whoever has the hold may give back.

    def may_fail_s_t(self, _group, _o):
        return True                 # A touch, or a promotion, may have come first.


def summary(history):
    count = defaultdict(int)
    for group in history.groups.values():
        count[group.answer] += 1
        if group.answer == "applied":
            for op in {o.op for o in group.ops} & set("atgs"):
                count[{"a": "adds", "t": "takes", "g": "gives", "s": "settles"}[op]] += 1
    count["reads"] = sum(r.results is not None for r in history.reads.values())
    count["leases"], count["otherwise"] = len(history.leases), history.preliminary
    return dict(count)


def check(folder):
    """What is wrong, a line each, and how much there was to be wrong."""
    history = histories.load(folder)
    return Checker(history).run(), summary(history)


def main(folders):
    failed = 0
    for folder in folders:
        found, counts = check(folder)
        failed += bool(found)
        print(f"{os.path.normpath(folder)}: " +
              ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
        for line in found:
            print(f"    {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER...")
    sys.exit(main(sys.argv[1:]))
