"""peers.py - a network around two instances of a function, and programs that use it.

    inside --- spray --- router --- outside

Every packet between inside and the router goes to the next of the two instances, "a" and
"b", which have one store.  The router decrements the TTL and knows how big a packet may
be; the instances are bumps in the wire.  Addresses that a function owns (a NAT's pool, a
load balancer's virtual address) are routed to inside.
"""
import contextlib
import json
import os
import re
import signal
import socket
import threading

import telemetry
from lab import Lab, wait_for

INSIDE = {4: "10.0.0.1", 6: "fd00::1"}
OUTSIDE = {4: "192.0.2.1", 6: "2001:db8::1"}
OUTSIDE2 = {4: "192.0.2.2", 6: "2001:db8::2"}
ROUTER = {4: "10.0.0.254", 6: "fd00::fe"}
POOL = ("203.0.113.0/24", "2001:db8:203::/48")
PATIENCE_S = 20
FILE_BYTES = 1_000_000
SLOW = ("rate", "80mbit", "burst", "16k", "limit", "4m")

ADDRESSES = {
    "inside": ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.11/24", "10.0.0.12/24",
               "10.0.0.13/24", "fd00::1/64", "fd00::11/64", "fd00::12/64"),
    "router": ("10.0.0.254/24", "fd00::fe/64"),
    "outside": ("192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "2001:db8::2/64"),
}


class Net:
    """The hosts; instances come with start()."""

    def __init__(self, lab):
        self.lab, self.instances = lab, {}
        for name, addresses in ADDRESSES.items():
            lab.host(name, *addresses)
        self.spray, self.store = lab.spray(), lab.redis()
        lab.link("inside:eth0", "spray:inside")
        lab.link("router:eth0", "spray:outside")
        lab.link("router:eth1", "outside:eth0")
        self.sh("router", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
                "ip addr add 192.0.2.254/24 dev eth1",
                "ip addr add 2001:db8::fe/64 dev eth1 nodad",
                *(f"ip route add {pool} via {INSIDE[6 if ':' in pool else 4]}"
                  for pool in POOL))
        for host, v4, v6 in (("inside", ROUTER[4], ROUTER[6]),
                             ("outside", "192.0.2.254", "2001:db8::fe")):
            self.sh(host, f"ip route add default via {v4}", f"ip route add default via {v6}",
                    # Refusals are looked for; limits are for the real world.
                    "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
        self.text, self.managed = None, False

    def sh(self, host, *commands):
        return self.lab.run("sh", "-ec", "\n".join(commands), netns=host)

    def use(self, text, *names):
        """Instances of this configuration; STORE in it stands for the store's URL."""
        self.stop()
        self.text = text.replace("STORE", self.store.url)
        self.start(*(names or ("a", "b")))

    def start(self, *names):
        devices = self.lab.counters("spray")
        for name in names:
            # Those of a dead one go when the kernel comes to it.
            wait_for(lambda: f"{name}_in" not in devices(), 10, "an end of its devices")
            links = self.spray.links(name)
            if self.managed:
                links["manage0"] = f"inside:manage-{name}"
            self.instances[name] = self.lab.snf(self.text, name, links=links)
            if self.managed:
                self._manage(name)
        self.spray.use(*sorted(self.instances))

    def _manage(self, name):
        """A way to the hosts inside that is the instance's own: it checks backends."""
        net = f"10.8.{ord(name)}"
        self.sh("inside", f"ip addr add {net}.1/24 dev manage-{name}")
        self.lab.run("sh", "-ec", f"ip addr add {net}.2/24 dev manage0\n"
                     f"ip route add 10.0.0.0/24 via {net}.1", netns=self.instances[name])

    def stop(self):
        """Ends the instances; the store forgets what they knew."""
        for process in self.instances.values():
            assert process.stop() == 0, process.log()
        self.instances = {}
        assert self.store.cli("FLUSHALL") == "+OK"

    def kill(self, name="a"):
        """SIGKILL, and from now on the other one gets all packets."""
        self.instances.pop(name).kill(signal.SIGKILL)
        self.spray.use(*self.instances)

    def heal(self):
        if self.instances and len(self.instances) < 2:
            self.start("a")

    def reload(self, text):
        """The same instances, with another file."""
        self.text = text.replace("STORE", self.store.url)
        for name, process in self.instances.items():
            with open(f"{self.lab.dir}/{name}.yaml", "w") as file:
                file.write(self.text)
            seen = process.log().count("in force")
            process.kill(signal.SIGHUP)
            wait_for(lambda: process.log().count("in force") > seen, 10, process.log())

    def counters(self):
        """Sums over the instances that live."""
        total = {}
        for process in self.instances.values():
            t = telemetry.of_process(process)
            try:
                add(total, t.stats())
            finally:
                t.close()
        return total

    def dropped(self, reason):
        return self.counters()["dropped"][reason]

    def arrived(self, host):
        """A function: bytes that a host has received so far."""
        read = self.lab.counters(host)
        return lambda: read()["eth0"][2]

    def listens(self, host, port, kind="t"):
        wait_for(lambda: f":{port} " in self.lab.run("ss", f"-Hln{kind}", netns=host), 10,
                 f"port {port} of {host}")

    @contextlib.contextmanager
    def slow(self, host):
        """So that what a host sends takes long enough for something to happen."""
        self.lab.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *SLOW, netns=host)
        try:
            yield
        finally:
            self.lab.run("tc", "qdisc", "del", "dev", "eth0", "root", netns=host)

    @contextlib.contextmanager
    def narrow(self, mtu):
        """Between the router and outside, whose TCP does not tell."""
        gateways = (("192.0.2.254", "-4", 1460), ("2001:db8::fe", "-6", 1440))
        try:
            self.sh("router", f"ip link set eth1 mtu {mtu}")
            self.sh("outside", f"ip link set eth0 mtu {mtu}",
                    *(f"ip {ip} route change default via {gateway} advmss {mss}"
                      for gateway, ip, mss in gateways))
            yield
        finally:
            self.sh("router", "ip link set eth1 mtu 1500")
            self.sh("outside", "ip link set eth0 mtu 1500",
                    *(f"ip {ip} route change default via {gateway}"
                      for gateway, ip, _ in gateways))
            for host in ("inside", "outside"):
                self.sh(host, "ip -4 route flush cache", "ip -6 route flush cache")


def add(total, values):
    for name, value in values.items():
        if isinstance(value, dict):
            add(total.setdefault(name, {}), value)
        elif isinstance(value, (int, float)):
            total[name] = total.get(name, 0) + value


@contextlib.contextmanager
def opened():
    with Lab() as lab:
        yield Net(lab)


def config(section, functions="firewall", more=""):
    return (f'function: {functions}\nstore: "STORE"\n{more}'
            'ports: {inside: "af_packet:in0", outside: "af_packet:out0"}\n' + section)


# --- Programs --------------------------------------------------------------------------

def bound(net, host, address, port=0, kind=socket.SOCK_STREAM):
    """A socket of a host's, listening if it can."""
    def make():
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        made.settimeout(PATIENCE_S)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen(128)
        return made
    return net.lab.inside(host, make)


def connect(net, host, to, port, source=""):
    """A TCP connection from a host."""
    def make():
        return socket.create_connection((to, port), PATIENCE_S,
                                        source_address=(source, 0) if source else None)
    made = net.lab.inside(host, make)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def both_speak(one, other):
    """A word each way, over connected sockets."""
    for sender, receiver in ((one, other), (other, one)):
        sender.send(b"a word")
        assert receiver.recv(100) == b"a word"


def web(net, host, more="", port=80, n_files=8):
    """Serves 'f0' and on, of random bytes; returns {name: checksum}."""
    root = f"{net.lab.ram}/www"
    net.sh(host, f"mkdir -p {root} {net.lab.ram}/got",
           *(f"[ -e {root}/f{i} ] || head -c {FILE_BYTES} /dev/urandom >{root}/f{i}"
             for i in range(n_files)))
    net.lab.nginx(host, root, more, port)
    return checksums(net, "www")


def checksums(net, folder):
    text = net.lab.run("sh", "-c", f"cd {net.lab.ram}/{folder} && sha256sum *")
    return {name: checksum for checksum, name in map(str.split, text.splitlines())}


def url(address, name="", port=80, scheme="http"):
    host = f"[{address}]" if ":" in address else address
    return f"{scheme}://{host}:{port}/{name}"


def downloads_survive(net, server, client, addresses, want, port=80, scheme="http",
                      fault=None):
    """Files are loaded in parallel; in their middle an instance is killed, unless the fault
    is another."""
    words = []
    for i, name in enumerate(want):
        words += ["-o", f"{net.lab.ram}/got/{name}",
                  url(addresses[i % len(addresses)], name, port, scheme)]
    with net.slow(server):
        before, arrived = net.arrived(client)(), net.arrived(client)
        curl = net.lab.start("curl", ["curl", "-q", "-sS", "-g", "--fail", "--parallel",
                                      "--parallel-immediate", "--max-time", "30", *words],
                             client)
        wait_for(lambda: arrived() - before > 0.3 * len(want) * FILE_BYTES or not curl.alive,
                 20, "the downloads")
        assert curl.alive, curl.log()
        (fault or net.kill)()
        assert curl.wait(40) == 0, curl.log()
    assert checksums(net, "got") == want


def iperf_survives(net, server, client, to, *words, at=""):
    """A test of three seconds, in whose middle an instance is killed.  Returns what iperf3
    says of it; something has to arrive until the end."""
    one_off = net.lab.start("iperf3-server", ["iperf3", "--server", "--one-off",
                                              *(["-B", at] if at else [])], server)
    net.listens(server, 5201)
    before, arrived = net.arrived(server)(), net.arrived(server)
    test = net.lab.start("iperf3", ["iperf3", "-c", to, "-t", "3", "-J", *words], client)
    wait_for(lambda: arrived() - before > 1_000_000 or not test.alive, 20, "traffic")
    assert test.alive, test.log()
    net.kill()
    assert test.wait(40) == 0, test.log()
    assert one_off.wait() == 0, one_off.log()
    said = json.loads(test.log()[test.log().index("{"):])      # Behind its warnings.
    streams = said["intervals"][-1]["streams"]
    assert all(stream["bytes"] > 0 for stream in streams), said["intervals"][-1]
    return said


def datagrams_survive(net, server, client, to, at=""):
    """The same with datagrams of three fragments each, some of which the kill costs."""
    end = iperf_survives(net, server, client, to, "-u", "-l", "3000", "-b", "10M",
                         at=at)["end"]
    assert end["sum_received"]["packets"] > 0.9 * end["sum"]["packets"] > 900, end
    assert end["sum_received"]["lost_percent"] < 25, end


def pings_survive(net, host, *words):
    """Pings while an instance is killed: some are lost with it, and none later."""
    arrived = net.arrived(host)
    before = arrived()
    ping = net.lab.start("ping", ["ping", "-i", "0.005", "-c", "400", "-W", "5", *words], host)
    wait_for(lambda: arrived() - before > 50 * 98 or not ping.alive, 20, "pings")
    assert ping.alive, ping.log()
    net.kill()
    assert ping.wait(30) == 0, ping.log()
    numbers = [int(n) for n in re.findall(r"(?:icmp_)?seq=(\d+)", ping.log())]
    # A ping in the dead one, and those until the other one got its packets: 100 ms.
    assert len(set(numbers)) >= 350 and set(range(300, 401)) <= set(numbers), ping.log()


DNS = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
       "--edns-packet-max=4096", "--host-record=a.test,192.0.2.7",
       "--txt-record=long.test," + ",".join(200 * "x" for _ in range(15))]


def dns(net, host, *words):
    net.lab.start("dns", [*DNS, *words], host)
    net.listens(host, 53, "u")


def queries_survive(net, host, to):
    """Queries by UDP and TCP, big answers in fragments, and a kill: all are answered."""
    def dig(*words):
        return net.lab.run("dig", f"@{to}", "+short", "+tries=5", "+time=1", *words,
                           netns=host)
    for i in range(24):
        if i == 12:
            net.kill()
        transport = "+tcp" if i % 2 else "+notcp"
        assert dig(transport, "a.test", "A") == "192.0.2.7\n"
        if i % 6 == 0:      # 3,200 bytes: three fragments.
            assert dig("+notcp", "+ignore", "+bufsize=4096", "long.test", "TXT").count(
                200 * "x") == 15


def route_is_seen(net, host, to, hops, *words):
    """traceroute: the hops, and no more, for a function is none."""
    said = net.lab.run("traceroute", "-n", "-q", "2", "-w", "3", *words, to, netns=host)
    seen = [re.findall(r"(?<= )[0-9a-f.:]*[.:][0-9a-f.:]*(?=  )", line)
            for line in said.splitlines()[1:]]
    assert [set(hop) for hop in seen] == [{hop} for hop in hops], said


def upload_finds_mtu(net, sender, receiver, to, accept_at, port=7100, accept_port=0,
                     mtu=1300):
    """A sender whose segments are too big for the router learns it from its ICMP errors,
    which come by another instance than the segments went.  Then one is killed."""
    text = os.urandom(1 << 16) * 8
    with net.narrow(mtu), bound(net, receiver, accept_at, accept_port or port) as server:
        with connect(net, sender, to, port) as one, server.accept()[0] as other:
            other.settimeout(PATIENCE_S)
            one.settimeout(PATIENCE_S)
            transfer(one, other, text)
            net.kill()
            transfer(other, one, text)
            # IP_MTU, IPV6_MTU: what the sender knows of the path now.
            level, option = ((socket.IPPROTO_IPV6, 24) if ":" in to else (socket.SOL_IP, 14))
            return one.getsockopt(level, option), other.getsockopt(level, option)


def transfer(one, other, text):
    sender = one.dup()
    thread = threading.Thread(target=lambda: sender.sendall(text))
    thread.start()
    got = b""
    try:
        while len(got) < len(text):
            part = other.recv(1 << 20)
            assert part, f"ended after {len(got)} bytes"
            got += part
    finally:
        if len(got) < len(text):
            sender.shutdown(socket.SHUT_RDWR)
        thread.join()
        sender.close()
    assert got == text


FTP = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_anonymous(sys.argv[2])
FTPHandler.passive_ports = range(40000, 40100)
FTPServer((sys.argv[1], 2121), FTPHandler).serve_forever()
"""


def ftp(net, host, address):
    net.lab.start("ftp", ["/usr/bin/python3", "-c", FTP, address, f"{net.lab.ram}/www"], host)
    net.listens(host, 2121)


def flood(net, host, *words, count=20000):
    """hping3, some 10,000 packets a second; to be awaited."""
    return net.lab.start("hping3", ["hping3", "-q", "-n", "-i", "u100", "-c", str(count),
                                    *words], host)
