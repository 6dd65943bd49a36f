"""referee.py - the same packets through Linux and through a function: which does it let
through, and with which addresses?

    inside --- the one under test --- outside

The two ends are raw sockets: nobody answers but the script.  The kernel's side is a
router whose neighbours are fixed, ours a bump in the wire, so what is compared begins at
the IP header and leaves out the TTL.  A packet counts as refused when all that was handed
in has come to its end and it was not among what came out: no time has to pass.
"""
import socket
import struct

from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import telemetry
from lab import wait_for

conf.verb = 0
ETH_P_ALL, PACKET_OUTGOING = 3, 4
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID = 263, 8, 0x10
POLL_S = 0.0002
KILL_EVERY = 19     # Packets: not a number of packets that cases have.
MAC = {"in": "02:00:00:00:00:01", "out": "02:00:00:00:00:02"}
ROUTER_MAC = "02:00:00:00:00:0e"
OTHER = {"in": "out", "out": "in"}
HOST = {"in": "inside", "out": "outside"}
CLIENT = {4: "10.0.0.1", 6: "fd00::1"}
SERVER = {4: "192.0.2.1", 6: "2001:db8::1"}


class Wire:
    """The end of a link: raw frames in and out."""

    def __init__(self, lab, host):
        def open_socket():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            s.bind(("eth0", 0))
            s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            s.setblocking(False)
            return s
        self.socket = lab.inside(host, open_socket)

    def send(self, packet):
        self.socket.send(packet)

    def frames(self):
        """What came."""
        found = []
        while True:
            try:
                frame, beside, _, address = self.socket.recvmsg(65536, 64)
            except BlockingIOError:
                return found
            if address[2] != PACKET_OUTGOING:
                found.append(tagged(frame, beside))

    def take(self):
        """What came, as IP packets."""
        return [Ether(frame).payload for frame in self.frames()
                if frame[12:14] in (b"\x08\x00", b"\x86\xdd")]


def tagged(frame, beside):
    """With the VLAN tag that the kernel has taken out: struct tpacket_auxdata."""
    status, tag, kind = struct.unpack("=I12xHH", beside[0][2])
    if not status & TP_STATUS_VLAN_VALID:
        return frame
    return frame[:12] + struct.pack("!HH", kind, tag) + frame[12:]


def framed(packet, dst, src):
    kind = 0x86dd if packet[0] >> 4 == 6 else 0x0800
    return bytes(Ether(dst=dst, src=src, type=kind)) + packet


class Linux:
    """A router with conntrack.  'rules' are for nft; a packet that is to go through is
    followed by a marker, which goes through whatever the rules are."""

    def __init__(self, lab, rules, sysctls=()):
        for side, host in HOST.items():
            lab.host(host)
            lab._quiet(host)
        lab.host("linux")
        lab.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                netns="linux")
        for side, host in HOST.items():
            lab.link(f"{host}:eth0", f"linux:{side}0")
            lab.run("ip", "link", "set", "eth0", "address", MAC[side], netns=host)
        lines = []
        for side, v4, v6 in (("in", "10.0.0", "fd00:"), ("out", "192.0.2", "2001:db8:")):
            dev = f"{side}0"
            lines += [f"ip link set {dev} address {ROUTER_MAC}",
                      f"ip addr add {v4}.254/24 dev {dev}",
                      f"ip addr add {v6}:fe/64 dev {dev} nodad",
                      *(f"ip neigh add {address} lladdr {MAC[side]} dev {dev}" for address in
                        (*(f"{v4}.{i}" for i in range(1, 10)),
                         *(f"{v6}:{i}" for i in range(1, 10))))]
        # A NAT's own address; not one that the router answers for.
        lines += ["ip addr add 203.0.113.1/32 dev out0",
                  *(f"sysctl -qw {sysctl}" for sysctl in sysctls)]
        lab.run("sh", "-ec", "\n".join(lines), netns="linux")
        lab.run("nft", "-f", "-", netns="linux", stdin=rules)
        self.wire = {side: Wire(lab, host) for side, host in HOST.items()}
        self.n_markers = 0

    def through(self, side, packets):
        """What comes out on the other side of what is sent into this one."""
        self.wire["in"].take(), self.wire["out"].take()
        for packet in packets:
            self.wire[side].send(framed(packet, ROUTER_MAC, MAC[side]))
        got = [p for p in self.wire[OTHER[side]].take() if not of_its_own(p)]
        # Mostly it has forwarded them before send() returned.
        return got if len(got) >= len(packets) else got + self._rest(side)

    def _rest(self, side):
        """What else is on its way."""
        self.n_markers += 1
        marker = bytes(IP(src="10.0.0.9" if side == "in" else "192.0.2.9",
                          dst="192.0.2.9" if side == "in" else "10.0.0.9", proto=253) /
                       Raw(b"marker %d" % self.n_markers))
        self.wire[side].send(framed(marker, ROUTER_MAC, MAC[side]))
        got = []
        out = self.wire[OTHER[side]]
        def marked():
            got.extend(out.take())
            return any(p.haslayer(Raw) and b"marker %d" % self.n_markers == p[Raw].load
                       for p in got)
        wait_for(marked, 5, "the marker", POLL_S)
        return [p for p in got if not of_its_own(p)]


def of_its_own(packet):
    """A marker, or what the router's stack says: of multicast groups, from addresses of the
    link."""
    if packet.version == 4:
        return packet.proto == 253
    return packet.src == "::" or packet.src.startswith("fe80")


class Ours:
    """One instance, or two that get every other packet: 'instances' are running on links
    that end at eth0 of the hosts, which say nothing of their own.  With 'replace' they are
    killed in turn, between two packets: replace(i) ends that one and returns another."""

    def __init__(self, lab, instances, hosts=HOST, store=None, replace=None):
        self.lab, self.instances, self.store, self.replace = lab, instances, store, replace
        self.wire = {side: Wire(lab, host) for side, host in hosts.items()}
        self.telemetry = [telemetry.of_process(process) for process in instances]
        self.n_in = self.n_out = self.n_calls = 0

    def _settled(self):
        """Whether all that was handed in is through."""
        self.stats = [t.stats() for t in self.telemetry]
        return sum(telemetry.settled(s) for s in self.stats) == self.n_in

    def through(self, side, packets):
        """What comes out on the other side; 'back' is what the sender was answered."""
        out, back = self.frames(side, *(framed(packet, MAC[OTHER[side]], MAC[side])
                                        for packet in packets))
        self.back = [Ether(frame).payload for frame in back]
        return [Ether(frame).payload for frame in out]

    def _kill(self, i):
        """What it has counted is as if it had never come."""
        self._settled()
        self.n_in -= telemetry.settled(self.stats[i])
        self.n_out -= self.stats[i]["sent"] + self.stats[i]["emitted"]
        self.telemetry[i].close()
        self.instances[i] = self.replace(i)
        self.telemetry[i] = telemetry.of_process(self.instances[i])

    def frames(self, side, *frames):
        """The frames that come out on the other side, and on this one."""
        self.n_calls += 1
        if self.replace and self.n_calls % KILL_EVERY == 0:
            self._kill(self.n_calls // KILL_EVERY % len(self.instances))
        for frame in frames:
            self.wire[side].send(frame)
        self.n_in += len(frames)
        wait_for(self._settled, 5, f"an end of {len(frames)} packets", POLL_S)
        n_out = sum(s["sent"] + s["emitted"] for s in self.stats)
        got = {"in": [], "out": []}
        def arrived():
            for end, wire in self.wire.items():
                got[end] += wire.frames()
            return self.n_out + len(got["in"]) + len(got["out"]) >= n_out
        wait_for(arrived, 5, f"{n_out} packets", POLL_S)
        self.n_out += len(got["in"]) + len(got["out"])
        return got[OTHER[side]], got[side]


# --- Scripts ---------------------------------------------------------------------------

ISN = {"in": 1000, "out": 5000}
WINDOW = 8192


class Script:
    """A conversation between a client inside and a server, of which every case has ports
    of its own.  'seen' is the client as outside knows it: under 'pool', if there is one."""

    def __init__(self, path, number, ip=4, pool=None):
        self.path, self.ip, self.pool = path, ip, pool
        self.header = IP if ip == 4 else IPv6
        self.client, self.server = CLIENT[ip], SERVER[ip]
        self.port, self.server_port = 20000 + number, 80
        self.seen = (pool or self.client, self.port)
        self.verdicts = []

    def ends(self, side):
        """Source and destination, as a packet that comes in on this side has them."""
        if side == "in":
            return (self.client, self.port), (self.server, self.server_port)
        return (self.server, self.server_port), self.seen

    def ip_of(self, side, **more):
        (src, _), (dst, _) = self.ends(side)
        return self.header(src=more.pop("src", src), dst=more.pop("dst", dst), **more)

    def tcp(self, side, flags, seq=None, ack=None, data=b"", window=WINDOW, options=(),
            ip={}, **more):
        """Numbers count from the sender's and the other side's SYN."""
        (_, sport), (_, dport) = self.ends(side)
        return self.ip_of(side, **ip) / TCP(**{
            "sport": sport, "dport": dport, "flags": flags, "window": window,
            "seq": (ISN[side] + (seq or 0)) % 2**32,
            "ack": (ISN[OTHER[side]] + ack) % 2**32 if ack is not None else 0,
            "options": list(options), **more}) / Raw(data)

    def udp(self, side, data=b"x", ip={}, **more):
        (_, sport), (_, dport) = self.ends(side)
        return self.ip_of(side, **ip) / UDP(**{"sport": sport, "dport": dport, **more}) \
            / Raw(data)

    def send(self, name, side, *packets):
        """Hands them in together; notes how many came out, and whether they are right."""
        # Built here, so that both get the same bytes.
        frames = [bytes(p) for p in packets]
        got = self.path.through(side, frames)
        verdict = "passed" if len(got) == len(packets) else "refused" if not got else \
            f"{len(got)} of {len(packets)}"
        if got and self.pool:
            ends = {p.src if side == "in" else p.dst for p in got}
            if ends != {self.pool if side == "in" else self.client}:
                verdict += " untranslated"
        wrong = {what for p in got for what in wrong_checksums(p)}
        if wrong and not any(wrong_checksums(self.header(frame)) for frame in frames):
            verdict += f", {', '.join(sorted(wrong))} checksum wrong"
        if side == "in" and got and got[0].version == 4:
            self.seen = (got[0].src, getattr(got[0].payload, "sport", self.seen[1]))
        self.verdicts.append((name, verdict))
        return got

    def passes(self, name, side, packet):
        """Where it is known what has to happen."""
        got = self.send(name, side, packet)
        assert self.verdicts[-1] == (name, "passed")
        return got

    def refused(self, name, side, packet):
        self.send(name, side, packet)
        assert self.verdicts[-1] == (name, "refused")

    def opened(self):
        """A handshake."""
        self.send("SYN", "in", self.tcp("in", "S", 0))
        self.send("SYN/ACK", "out", self.tcp("out", "SA", 0, 1))
        self.send("ACK", "in", self.tcp("in", "A", 1, 1))


def wrong_checksums(packet):
    """Names of headers of a packet whose checksum is not right.  Of a fragment's payload
    nobody knows here."""
    if packet.version == 6:
        return []
    layers = [IP] if packet.frag or packet.flags.MF else [IP, TCP, UDP, ICMP]
    wrong = []
    for layer in layers:
        if not packet.haslayer(layer) or (layer is UDP and packet[UDP].chksum == 0):
            continue
        again = packet.copy()
        del again[layer].chksum
        if IP(bytes(again))[layer].chksum != packet[layer].chksum:
            wrong.append(layer.__name__)
    return wrong
