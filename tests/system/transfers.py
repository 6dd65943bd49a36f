"""transfers.py - TCP connections over bad links, as a box in the middle sees them.

    client --- link --- here --- link --- server

Two ends do what hosts do: they open (or both do), send within the window that the other
one offers, acknowledge with SACK, retransmit by time and by repeated ACKs, let windows
shut and probe them, close one side or both, or give up by a RST.  Links lose, repeat and
delay.  What passes "here" is noted, in its order.  All of it comes from a seed, and no
time passes.

A forged segment is one that neither end has sent: with numbers of a live connection, but
further from the truth than any tolerance.
"""
import heapq
import random
import socket
import struct
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
OTHER = {"in": "out", "out": "in"}
RTO_S, LINK_S, PATIENCE_S = 0.3, 0.02, 60
FAR = 1 << 23       # Beyond all windows here, and what a record may lag behind.


@dataclass(frozen=True)
class Segment:
    flow: int               # Of which connection: the client's port counts from it.
    side: str               # It comes in on: "in" from the client.
    flags: int
    seq: int
    ack: int
    window: int
    options: bytes
    n_bytes: int            # Of data.
    forged: bool = False    # Neither end has sent it.

    def packet(self, source, destination):
        """As it travels between these (address, port)."""
        head = struct.pack("!HHIIBBHHH", source[1], destination[1], self.seq % 2**32,
                           self.ack % 2**32, (20 + len(self.options)) << 2, self.flags,
                           self.window, 0, 0)
        tcp = bytearray(head + self.options + bytes(self.n_bytes))
        ends = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
        struct.pack_into("!H", tcp, 16,
                         checksum(ends + struct.pack("!HH", 6, len(tcp)) + tcp))
        ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0)
                       + ends)
        struct.pack_into("!H", ip, 10, checksum(ip))
        return bytes(ip + tcp)


def checksum(data):
    data = bytes(data) + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total ^ 0xffff


class Clock:
    def __init__(self):
        self.now, self.queue, self.n = 0.0, [], 0

    def after(self, seconds, what, *words):
        self.n += 1
        heapq.heappush(self.queue, (self.now + seconds, self.n, what, words))

    def run(self, until):
        while self.queue and self.queue[0][0] < until:
            self.now, _, what, words = heapq.heappop(self.queue)
            what(*words)


class End:
    """One end.  Numbers count from its own and the other's SYN, which is 0."""

    def __init__(self, connection, side, r):
        self.connection, self.side, self.r = connection, side, r
        self.isn = r.choice([r.randrange(2**32), 2**32 - r.randrange(1, 100_000)])
        self.mss = r.choice([300, 536, 1200, 1400])
        self.scale = r.choice([None, 0, 2, 7, 14])
        self.buffer = r.choice([4_000, 30_000, 65_535, 600_000])
        self.timestamps = r.random() < 0.5
        self.to_send = r.choice([0, 1, 700, 15 * self.mss, 60 * self.mss, 250 * self.mss])
        self.in_flight = self.mss * r.choice([2, 10, 60, 200])
        self.reads_s = r.choice([0, 0, 0.05, 0.4])     # Until what has come is read.
        self.aborts = r.random() < 0.1
        self.state, self.una, self.nxt, self.edge = "closed", 0, 0, 1
        self.rcv, self.held, self.unread, self.shown = 0, [], 0, 0
        self.repeats, self.timer, self.other_isn = 0, 0, 0
        self.scales = self.sacks = False

    @property
    def last(self):
        """Behind its FIN."""
        return 1 + self.to_send + 1

    # What it sends.

    def emit(self, flags, number, n_bytes=0, ack=True):
        options = b""
        if flags & SYN:
            options = struct.pack("!BBH", 2, 4, self.mss) + b"\4\2"
            options += b"" if self.scale is None else bytes([3, 3, self.scale])
        elif self.sacks and self.held:
            blocks = self.held[:3]
            options = bytes([1, 1, 5, 2 + 8 * len(blocks)]) + b"".join(
                struct.pack("!II", *((self.other_isn + n) % 2**32 for n in block))
                for block in blocks)
        if self.timestamps and len(options) < 20:
            options += struct.pack("!BBBBII", 1, 1, 8, 10, int(self.connection.clock.now * 1e3)
                                   + 1, 1)
        options += bytes(-len(options) % 4)
        self.connection.send(Segment(
            self.connection.flow, self.side, flags | (ACK if ack else 0), self.isn + number,
            self.other_isn + self.rcv if ack else 0, 0 if flags & RST else
            self.window(flags & SYN), options, n_bytes))

    def window(self, is_syn=False):
        shift = self.scale if self.scales and not is_syn else 0
        free = max(self.buffer - self.unread, 0)
        room = min(max(free if free >= min(self.mss, self.buffer // 2) else 0,
                       self.shown - self.rcv), 65535 << shift)
        field = -(-room >> shift)
        if not is_syn:
            self.shown = max(self.shown, self.rcv + (field << shift))
        return min(field, 65535)

    def open(self):
        self.state, self.nxt = "opening", 1
        self.emit(SYN, 0, ack=False)
        self.wait(RTO_S)

    def segment_at(self, number):
        """Sends what begins there; returns its end."""
        n = max(min(self.mss, self.last - 1 - number, self.edge - number), 0)
        end = number + n
        fin = end == self.last - 1 and end < self.edge
        self.emit(FIN if fin else PSH if n and self.r.random() < 0.3 else 0, number, n)
        return end + fin

    def push(self):
        """Sends what it may."""
        while self.state == "open" and self.nxt < min(self.last, self.edge) and \
                self.nxt - self.una < self.in_flight:
            self.nxt = self.segment_at(self.nxt)
            self.wait(RTO_S)

    def wait(self, seconds):
        self.timer += 1
        self.connection.clock.after(seconds, self.late, self.timer, seconds)

    def late(self, timer, seconds):
        if timer != self.timer or self.state in ("dead", "closed"):
            return
        if self.una == 0:
            self.emit(SYN, 0, ack=self.state == "answering")
        elif self.una < self.nxt:
            end = self.segment_at(self.una)
            self.nxt = max(self.nxt, end)
        elif self.nxt < self.last:          # The window is shut.
            if self.r.random() < 0.5:
                self.emit(0, self.nxt - 1)
            elif self.nxt < self.last - 1:
                self.emit(0, self.nxt, 1)
        elif self.r.random() < 0.2:
            self.emit(0, self.nxt - 1)      # A keep-alive.
        else:
            return
        self.wait(min(seconds * 2, 5))

    def give_up(self):
        if self.state == "open":
            self.state = "dead"
            self.emit(RST, self.nxt, ack=self.r.random() < 0.5)

    # What it gets.

    def get(self, s):
        if s.flags & RST:
            if self.state == "opening":
                if s.flags & ACK and s.ack % 2**32 == (self.isn + 1) % 2**32:
                    self.state = "dead"
            elif (s.seq - self.other_isn) % 2**32 == self.rcv and self.state != "closed":
                self.state = "dead"
            return
        if self.state == "dead":
            if s.flags & ACK:
                self.connection.send(Segment(self.connection.flow, self.side, RST, s.ack, 0,
                                             0, b"", 0))
            return
        if s.flags & SYN:
            self.get_syn(s)
        elif self.state in ("open", "answering"):
            self.get_ack(s)
            self.get_data(s)
        self.push()

    def get_syn(self, s):
        if self.state in ("closed", "opening"):
            self.other_isn, self.rcv = s.seq, 1
            shift = self.connection.end[OTHER[self.side]].scale
            self.scales = shift is not None and self.scale is not None
            self.sacks = True
            self.shift = shift if self.scales else 0
            self.edge = max(self.edge, 1 + s.window)
            self.nxt = 1
            if s.flags & ACK:
                self.una, self.state = 1, "open"
                self.emit(0, 1)
            else:
                self.state = "answering"
                self.emit(SYN, 0)
                self.wait(RTO_S)
        elif self.state == "answering" and not s.flags & ACK:
            self.emit(SYN, 0)
        else:
            if s.flags & ACK and self.una == 0:
                self.una, self.state = 1, "open"
            self.emit(0, self.nxt)

    def get_ack(self, s):
        ack = self.una + ((s.ack - self.isn - self.una + 2**31) % 2**32 - 2**31)
        if not self.una <= ack <= self.nxt:
            return
        if self.state == "answering":
            if ack < 1:
                return
            self.state = "open"
            if self.aborts:
                self.connection.clock.after(self.r.random() * 2, self.give_up)
        if ack == self.una and ack < self.nxt and not s.n_bytes:
            self.repeats += 1
            if self.repeats == 3:
                self.segment_at(self.una)
        elif ack > self.una:
            self.una, self.repeats = ack, 0
            if ack < self.last:
                self.wait(RTO_S)
        edge = ack + (s.window << self.shift)
        if edge > self.edge:
            self.edge = edge

    def get_data(self, s):
        number = self.rcv + ((s.seq - self.other_isn - self.rcv + 2**31) % 2**32 - 2**31)
        end = number + s.n_bytes + (s.flags & FIN)
        if end == number and number >= self.rcv:
            return
        if number <= self.shown and end > self.rcv and end <= self.shown + 1:
            before = self.rcv
            self.held = joined([*self.held, (max(number, self.rcv), end)])
            if self.held[0][0] <= self.rcv:
                self.rcv = max(self.rcv, self.held.pop(0)[1])
            self.unread += self.rcv - before
            self.connection.clock.after(self.reads_s * self.r.random() * 2, self.read)
        if self.held or end <= self.rcv - 1 or self.r.random() < 0.6 or s.flags & FIN:
            self.emit(0, self.nxt)
        else:
            self.connection.clock.after(0.04, self.acknowledge)

    def acknowledge(self):
        if self.state == "open":
            self.emit(0, self.nxt)

    def read(self):
        was_shut = self.shown - self.rcv < self.mss
        self.unread = 0
        if was_shut and self.state == "open":
            self.emit(0, self.nxt)


def joined(spans):
    """Spans in order, those that touch as one."""
    out = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


class Connection:
    def __init__(self, clock, flow, r, seen):
        self.clock, self.flow, self.r, self.seen = clock, flow, r, seen
        self.loss, self.repeats, self.late = (r.choice([0, 0.02, 0.1]), r.choice([0, 0.05]),
                                              r.choice([0, 0.1, 0.4]))
        self.forges = r.choice([0, 0.05])
        self.end = {side: End(self, side, r) for side in ("in", "out")}
        clock.after(r.random() * 2, self.end["in"].open)
        self.both_open = r.random() < 0.2

    def carry(self, what, segment):
        """Over a link."""
        if self.r.random() < self.loss:
            return
        for _ in range(2 if self.r.random() < self.repeats else 1):
            jam = self.r.random() * 10 if self.r.random() < self.late else 0
            self.clock.after(LINK_S * (1 + jam), what, segment)

    def send(self, segment):
        self.carry(self.here, segment)

    def here(self, segment):
        self.seen.append(segment)
        if self.both_open:
            self.both_open = False
            self.end["out"].open()
        self.carry(self.end[OTHER[segment.side]].get, segment)
        if self.r.random() < self.forges and not segment.flags & SYN:
            self.forge(segment)

    def forge(self, s):
        """Old data is no forgery: it passes and changes nothing."""
        def far():
            return self.r.randrange(FAR, 2**31 - FAR)
        flags = self.r.choice([ACK, ACK | PSH, ACK | FIN, RST, RST | ACK])
        if flags & RST:
            ahead, acks = self.r.choice([far(), -far()]), 0
        else:
            ahead, acks = self.r.choice([(far(), 0), (0, far()), (0, -far()), (far(), far())])
        self.seen.append(Segment(s.flow, s.side, flags, s.seq + ahead, s.ack + acks, s.window,
                                 b"", 0 if flags & RST else self.r.randrange(100), True))


def transfers(seed, n_connections):
    """The segments of that many connections at a time."""
    r, clock, seen = random.Random(seed), Clock(), []
    for flow in range(n_connections):
        Connection(clock, flow, random.Random(r.random()), seen)
    clock.run(PATIENCE_S)
    return seen
