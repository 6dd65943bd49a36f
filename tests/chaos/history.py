"""history.py - histories of the chaos clients, as objects: what checker.py judges.

A run is a folder: a file SLOT.INCARNATION.history for each client process, final.txt with
all records at the end, and run.json with what the checker has to know of the run.

Lines of a history; T is a time in ns, GROUP and ID are versions in hex, KEY is in hex:

    G T GROUP PARTITION OP...       a group is asked for
    N T GROUP PARTITION WORD        an answer that may not be believed yet
    A T GROUP PARTITION WORD        its answer
    R T ID PARTITION OP...          reads are asked for
    V T ID PARTITION WORD[/VERSION/VALUE]...    their answers
    L T PARTITION TABLE KEY/VERSION/VALUE       a timer is leased to this client
    E T TEXT                        something else; "ended" is the last line of all

    r e u k   READ PEEK TOUCH PICK:  r/TABLE/KEY
    c         CHECK      c/TABLE/KEY/VERSION         s: SETTLE alike
    p         PUT        p/TABLE/KEY/IDLE_MS         d: DELETE, without IDLE_MS
    a         ADD        a/TABLE/KEY/OFFSET/DELTA/MIN/MAX
    t, g      TAKE, GIVE t/TABLE/KEY/MEMBER, g/TABLE/KEY/MEMBER/QUARANTINE_MS

TABLE is one of the letters k (keys), c (counters), r (ranges), h (holds), j (journal) and
t (timers).  A last line without an end was being written when its client was killed.
"""
import glob
import json
import math
import os
import struct
from collections import namedtuple

MS = 1_000_000
WORDS = (1 << 64) - 1
LETTERS = {"chaos.key": "k", "chaos.counter": "c", "chaos.range": "r", "chaos.hold": "h",
           "chaos.journal": "j", "chaos.timer": "t"}

Op = namedtuple("Op", "op table key args")  # args: integers.
Record = namedtuple("Record", "partition table key version value")
Lease = namedtuple("Lease", "time partition table key version value client")


class Asked:
    """A group, or reads: what was asked from when on, and answered by when."""

    def __init__(self, client, start, number, partition, ops):
        self.client, self.start, self.id = client, start, number
        self.partition, self.ops = partition, ops
        self.end = math.inf         # Nobody knows that it was over, so it never was.
        self.answer = "unknown"     # Of a group.
        self.results = None         # Of reads: (word, version, value) each.

    def __repr__(self):
        end = "?" if self.end == math.inf else f"{self.end / 1e9:.3f}"
        return (f"{self.id:x} ({self.client}, partition {self.partition}, "
                f"{self.start / 1e9:.3f} to {end}, {self.answer})")

    def only(self, letters, table=None):
        return [o for o in self.ops if o.op in letters and table in (None, o.table)]


def value_of(table, version):
    """What a PUT of that version has as its value: chaos_ask.c makes the same."""
    n = 1 + version % 5 if table == "k" else 2
    words = [(version * 0x9e3779b97f4a7c15 * i + version) & WORDS for i in range(n)]
    return struct.pack(f"<{n}Q", *words)


def number(op, text):
    """CHECK and SETTLE have a version, which is in hex."""
    return int(text, 16 if op in "cs" else 10)


def parse_op(word):
    op, table, key, *args = word.split("/")
    return Op(op, table, bytes.fromhex(key), tuple(number(op, a) for a in args))


def parse_result(word):
    word, *hit = word.split("/")
    if not hit:
        return word, 0, b""
    return word, int(hit[0], 16), bytes.fromhex(hit[1])


class History:
    def __init__(self):
        self.groups, self.reads, self.leases, self.events = {}, {}, [], []
        self.preliminary = 0        # Answers that turned out otherwise.
        self.final = []             # Records.
        self.strict = False         # Reads too see only what stays.
        self.problems = []          # What chaos.py found by itself.

    def add_line(self, client, line):
        kind, time, rest = line.split(" ", 2)
        time = int(time)
        if kind == "E":
            self.events.append((time, client, rest))
            return
        words = rest.split(" ")
        if kind == "L":
            key, version, value = words[2].split("/")
            self.leases.append(Lease(time, int(words[0]), int(words[1]),
                                     bytes.fromhex(key), int(version, 16),
                                     bytes.fromhex(value), client))
            return
        which, partition = int(words[0], 16), int(words[1])
        if kind in "GR":
            asked = Asked(client, time, which, partition, [parse_op(w) for w in words[2:]])
            (self.groups if kind == "G" else self.reads)[which] = asked
        elif kind == "V":
            reads = self.reads[which]
            reads.end, reads.results = time, [parse_result(w) for w in words[2:]]
        elif kind == "N":
            self.groups[which].preliminary = words[2]
        elif kind == "A":
            group = self.groups[which]
            group.answer = words[2]
            if group.answer != "unknown":
                group.end = time
            self.preliminary += getattr(group, "preliminary", words[2]) != words[2]

    def add_text(self, client, text):
        for line in text.split("\n")[:-1]:
            if not line.startswith("#"):
                self.add_line(client, line)

    def add_record(self, line):
        partition, table, key, version, value = line.split(" ")
        self.final.append(Record(int(partition), table, bytes.fromhex(key),
                                 int(version, 16), bytes.fromhex(value)))


def load(folder):
    history = History()
    for path in sorted(glob.glob(os.path.join(folder, "*.history"))):
        with open(path) as file:
            history.add_text(os.path.basename(path)[:-len(".history")], file.read())
    with open(os.path.join(folder, "final.txt")) as file:
        for line in file.read().split("\n")[:-1]:
            history.add_record(line)
    with open(os.path.join(folder, "run.json")) as file:
        run = json.load(file)
    history.strict, history.problems = run["strict"], run["problems"]
    return history
