"""protocol_client.py - a client of the module, written from docs/protocol.md alone: what
it and the module agree on is the protocol, not shared code.

    part = Partition(Client("/run/valkey.sock"), "snf:{demo:0}", ("table", 16, 64, 1))
    assert part.ask(read(0, b"key")) == [MISS]
    part.write(put(0, b"key", b"value"))
"""
import collections
import itertools
import random
import socket
import struct

PROTOCOL = 2
MISS, APPLIED, CONFLICT, REFUSED, BOUND, FULL = (0,), (2,), (3,), (4,), (5,), (6,)
LEASED, EVICT = 1, 2
INT_MIN, INT_MAX = -1 << 63, (1 << 63) - 1


class Refused(Exception):
    """An error reply."""


class Client:
    """A connection that talks RESP2, to a path or a (host, port)."""

    def __init__(self, where):
        family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(where)
        self.file = self.socket.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def send(self, *words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.socket.sendall(b"*%d\r\n" % len(words) +
                            b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))

    def receive(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.receive() for _ in range(int(rest))]
        return rest.decode()

    def __call__(self, *words):
        self.send(*words)
        return self.receive()

    def info(self, section):
        lines = self("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def count(self, name):
        return int(self.info("snf")["snf_" + name])


def pad(data):
    return data + bytes(-len(data) % 8)


def short(code, table, key):
    return pad(bytes((code, table, len(key), 0)) + key)


def read(table, key, touch=True):
    return short(1 if touch else 2, table, key)


def touch(table, key):
    return short(7, table, key)


def delete(table, key):
    return short(6, table, key)


def pick(table, key, n_members):
    return struct.pack("<BBBBI", 8, table, len(key), 0, n_members) + pad(key)


def check(table, key, version):
    return struct.pack("<BBBBIQ", 4, table, len(key), 0, 0, version) + pad(key)


def settle(table, key, version):
    return struct.pack("<BBBBIQ", 9, table, len(key), 0, 0, version) + pad(key)


def put(table, key, value, idle_ms=0, form=1, rank=0):
    return struct.pack("<BBBBHBBII", 5, table, len(key), form, len(value), rank, 0,
                       idle_ms, 0) + pad(value) + pad(key)


def add(table, key, delta, low=INT_MIN, high=INT_MAX, offset=0, size=8, idle_ms=0,
        form=1):
    return struct.pack("<BBBBHHIIqqq", 10, table, len(key), form, size, offset, idle_ms,
                       0, delta, low, high) + pad(key)


def take(table, key, n_members, member, form=1):
    return struct.pack("<BBBBIII", 11, table, len(key), form, n_members, member,
                       0) + pad(key)


def give(table, key, member, quarantine_ms=0):
    return struct.pack("<BBBBIII", 12, table, len(key), 0, quarantine_ms, member,
                       0) + pad(key)


def group(version, *ops):
    return struct.pack("<BBHIQ", 3, len(ops), 0, 0, version) + b"".join(ops)


def frame(generation, term, client, number, *ops):
    body = b"".join(ops)
    return struct.pack("<IIQQQQ", 0x02464e53, 40 + len(body), generation, term, client,
                       number) + body


def answers(reply, number):
    """(2,) and the like, and (1, format, version, value) for a hit."""
    magic, length, echoed = struct.unpack_from("<IIQ", reply)
    assert (magic, length, echoed) == (0x02524e53, len(reply), number)
    at, found = 16, []
    while at < len(reply):
        answer, form, size = struct.unpack_from("<BBH", reply, at)
        if answer != 1:
            found.append((answer,))
            at += 8
            continue
        version, = struct.unpack_from("<Q", reply, at + 8)
        found.append((1, form, version, reply[at + 16:at + 16 + size]))
        at += 16 + len(pad(bytes(size)))
    assert at == len(reply)
    return found


Record = collections.namedtuple("Record", "table key form version value")


def record(data, at=0):
    """A record of a leases message or a scan, and where the next one starts."""
    head = struct.unpack_from("<BBBBHHQ", data, at)
    one, table, n_key, form, size, zero, version = head
    assert (one, zero) == (1, 0)
    value = at + 16
    key = value + len(pad(bytes(size)))
    return (Record(table, data[key:key + n_key], form, version, data[value:value + size]),
            key + len(pad(bytes(n_key))))


def leases(message):
    magic, length, zero = struct.unpack_from("<IIQ", message)
    assert (magic, length, zero) == (0x02444e53, len(message), 0)
    at, found = 16, []
    while at < len(message):
        lease, at = record(message, at)
        found.append(lease)
    assert at == len(message)
    return found


def table_words(table):
    """The six words of (name, key_max, value_max, format[, flags[, limit]])."""
    return (*table, 0, 0)[:6]


class Partition:
    """One client of a partition, with its id and the count of its frames."""

    def __init__(self, client, key, *tables, who=None, n_partitions=1):
        self.client, self.key = client, key
        words = [word for table in tables for word in table_words(table)]
        self.generation, self.term, self.replicas, *self.ids = client(
            "SNF.OPEN", key, PROTOCOL, n_partitions, *words)
        self.who = who or random.getrandbits(64)
        self.numbers = itertools.count(1)
        self.versions = itertools.count(random.getrandbits(48) + 1)

    def frame(self, *ops):
        self.number = next(self.numbers)
        return frame(self.generation, self.term, self.who, self.number, *ops)

    def send(self, data):
        return self.client("SNF.FRAME", self.key, data)

    def ask(self, *ops):
        reply = self.send(self.frame(*ops))
        return answers(reply, self.number)

    def group(self, *ops):
        """What one group is answered."""
        (answer,), = self.ask(group(next(self.versions), *ops))
        return (answer,)

    def write(self, *ops):
        """One group; its version, or None if it was not applied."""
        version = next(self.versions)
        return version if self.ask(group(version, *ops)) == [APPLIED] else None

    def value(self, table, key, touch=True):
        answer, = self.ask(read(table, key, touch))
        return answer[3] if answer[0] == 1 else None

    def committed(self, n_replicas, timeout_ms):
        """Whether what was answered before is with so many replicas."""
        mark = ("SNF.MARK", self.key, self.term)
        answers, refusals = [], []
        for words in (mark, ("WAIT", n_replicas, timeout_ms), mark):
            self.client.send(*words)
        for _ in range(3):
            try:
                answers.append(self.client.receive())
            except Refused as refusal:
                refusals.append(refusal)
        if refusals:
            raise refusals[0]
        return answers[1] >= n_replicas

    def due(self, most=64, timeout_ms=0, tables=()):
        return leases(self.client("SNF.DUE", self.key, self.term, most, timeout_ms,
                                  *(self.ids[i] for i in tables)))

    def tables(self):
        found = {}
        for flat in self.client("SNF.TABLES", self.key):
            table = dict(zip(flat[::2], flat[1::2]))
            found[table[b"name"].decode()] = {
                name.decode(): value for name, value in table.items()}
        return found

    def scan(self, table, count=1000):
        """(idle_ms, left_ms, Record) of each record."""
        cursor = 0
        while True:
            cursor, *found = self.client("SNF.SCAN", self.key, table, cursor, count)
            for data in found:
                idle_ms, left_ms = struct.unpack_from("<II", data)
                lease, end = record(data, 8)
                assert end == len(data)
                yield idle_ms, left_ms, lease
            if cursor == 0:
                return
