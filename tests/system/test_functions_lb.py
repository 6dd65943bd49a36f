"""test_functions_lb.py - clients outside and servers behind a load balancer: two instances
on one store get every other packet, and one is killed while each of them runs."""
import json
import re
import time
from collections import Counter

import pytest

import peers
from lab import missing_rights, wait_for
from peers import OUTSIDE, both_speak, bound, connect

VIP = {4: "203.0.113.80", 6: "2001:db8:203::80"}
BACKENDS = {4: ["10.0.0.11", "10.0.0.12", "10.0.0.13"], 6: ["fd00::11", "fd00::12"]}
SECTION = """
lb:
  services:
    - address: "203.0.113.80:80"
      backends: [WEB]
    - address: "[2001:db8:203::80]:80"
      backends: ["[fd00::11]:80", "[fd00::12]:80"]
    - {address: "203.0.113.80:5201", backends: ["10.0.0.11:5201"]}
    - {address: "203.0.113.80:5201", protocol: udp, backends: ["10.0.0.11:5201"]}
    - {address: "203.0.113.80:53", protocol: udp, scheduler: round_robin,
       backends: ["10.0.0.11:53", "10.0.0.12:53"]}
    - {address: "203.0.113.80:53", backends: ["10.0.0.11:53", "10.0.0.12:53"]}
    - {address: "203.0.113.80:7100", backends: ["10.0.0.12:7000"]}
    - {address: "203.0.113.81:80", mode: nat, sources: [198.18.0.1],
       backends: ["10.0.0.11:80", "10.0.0.12:80"]}
    - {address: "203.0.113.82:80", mode: dsr_mac,
       backends: [{address: "10.0.0.13:80", mac: "MAC"}]}
"""
WEB = '"10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80"'
WHO = "location /who { return 200 $server_addr; } location /you { return 200 $remote_addr; }"


@pytest.fixture(scope="module")
def whole():
    if missing_rights():
        pytest.skip(missing_rights())
    with peers.opened() as net:
        link = json.loads(net.lab.ip("-j", "link", "show", "eth0", netns="inside"))[0]
        net.mac = link["address"]
        net.want = peers.web(net, "inside", WHO)
        peers.dns(net, "inside")
        yield net


def section(net, web=WEB, more=""):
    return peers.config(SECTION.replace("WEB", web).replace("MAC", net.mac) + more, "lb")


@pytest.fixture
def net(whole):
    """Two sprayed instances on one store."""
    if whole.text is None or "services:" not in whole.text:
        whole.use(section(whole))
    whole.heal()
    return whole


def curl(net, *words):
    return net.lab.run("curl", "-q", "-sS", "-g", "--fail", "--max-time", "10", *words,
                       netns="outside")


def who(net, n=1, address=VIP[4]):
    """Which backends had n connections, made one after the other."""
    return Counter(curl(net, peers.url(address, "who")) for _ in range(n))


both = pytest.mark.parametrize("ip", [4, 6], ids=["IPv4", "IPv6"])


@both
def test_downloads_survive_a_kill(net, ip):
    """[B47; case 51; U4, U8, U9] No download fails, and every byte is right."""
    peers.downloads_survive(net, "inside", "outside", [VIP[ip]], net.want)


@both
def test_every_backend_gets_connections(net, ip):
    """[B43; case 51] All succeed, over all backends."""
    seen = who(net, 30, VIP[ip])
    assert set(seen) == set(BACKENDS[ip]) and sum(seen.values()) == 30, seen


@pytest.mark.parametrize("streams", ["1", "8"])
def test_iperf3_survives_a_kill(net, streams):
    """[U8, U9] TCP, one stream and many."""
    said = peers.iperf_survives(net, "inside", "outside", VIP[4], "-P", streams,
                                "-b", f"{80 // int(streams)}M")
    assert said["end"]["sum_received"]["bytes"] > 5_000_000


def test_datagrams_in_fragments_survive_a_kill(net):
    """[B51, B52; U19] UDP of 3,000 bytes; the fragments go to different instances, and to one
    backend."""
    peers.datagrams_survive(net, "inside", "outside", VIP[4], "10.0.0.11")


def test_queries_survive_a_kill(net):
    """[B51, B52; U8] UDP and TCP, answers in fragments."""
    peers.queries_survive(net, "outside", VIP[4])


@both
def test_the_virtual_address_answers_pings(net, ip):
    """[B49; U8] Whoever gets them, also when one is killed."""
    peers.pings_survive(net, "outside", VIP[ip])


def test_traceroute_sees_the_virtual_address(net):
    """[B48, B49] And no backend."""
    peers.route_is_seen(net, "outside", VIP[4], ["192.0.2.254", VIP[4]], "-T", "-p", "80")


def test_a_backend_learns_the_mtu_of_the_path_to_a_client(net):
    """[B48; case 19; U18] The router's error is for the virtual address."""
    _, mtu = peers.upload_finds_mtu(net, "outside", "inside", VIP[4], "10.0.0.12",
                                    accept_port=7000)
    assert mtu == 1300


def test_full_nat_hides_the_client(net):
    """[B47; U9] The backend sees an address of the load balancer's."""
    assert curl(net, peers.url("203.0.113.81", "you")) == "198.18.0.1"
    assert curl(net, peers.url(VIP[4], "you")) == OUTSIDE[4]


def test_full_nat_survives_a_kill(net):
    """[B47; U9]"""
    peers.downloads_survive(net, "inside", "outside", ["203.0.113.81"], net.want)


def test_direct_return_by_mac(net):
    """[B47] The frame goes to the backend's MAC address, the packet stays as it is."""
    net.sh("inside", "ip addr add 203.0.113.82/32 dev lo")
    net.sh("router", "ip route add 203.0.113.82 via 10.0.0.250",
           "ip neigh replace 10.0.0.250 lladdr 02:00:00:00:00:99 dev eth0")
    try:
        assert curl(net, peers.url("203.0.113.82", "who")) == "203.0.113.82"
        peers.downloads_survive(net, "inside", "outside", ["203.0.113.82"], net.want)
    finally:
        net.sh("inside", "ip addr del 203.0.113.82/32 dev lo")
        net.sh("router", "ip route del 203.0.113.82")


def test_a_connection_survives_the_death_of_both_in_turn(net):
    """[U8, U9, U11, U12] As long as there is always one."""
    with bound(net, "inside", "10.0.0.12", 7000) as server:
        with connect(net, "outside", VIP[4], 7100) as one, server.accept()[0] as other:
            other.settimeout(peers.PATIENCE_S)
            for name in ("a", "b", "a"):
                both_speak(one, other)
                net.kill(name)
                both_speak(other, one)
                net.start(name)
            both_speak(one, other)


def keep(net):
    """A connection that stays open, and its backend."""
    client = connect(net, "outside", VIP[4], 80)
    def ask():
        client.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        text = ""
        while not re.search(r"\r\n\r\n\S+$", text):
            part = client.recv(4096).decode()
            assert part, "closed"
            text += part
        return text.split("\r\n\r\n")[1]
    return client, ask


def test_a_drained_backend_keeps_what_it_has(net):
    """[B45, B54; case 53; U11, U22, U23] Weight 0 by a reload: nothing new, and an open
    connection stays, also when an instance is killed then."""
    client, ask = keep(net)
    with client:
        mine = ask()
        web = ", ".join(f'{{address: "{b}:80", weight: {int(b != mine)}}}'
                        for b in BACKENDS[4])
        net.reload(section(net, web))
        assert mine not in who(net, 12)
        assert ask() == mine
        net.kill()
        assert ask() == mine
        net.heal()
    net.reload(section(net))
    assert mine in who(net, 12)


def test_weights_are_shares(net):
    """[B43; case 53] Of new connections, with round robin."""
    text = section(net, '{address: "10.0.0.11:80", weight: 3}, "10.0.0.12:80"').replace(
        '203.0.113.80:80"\n', '203.0.113.80:80"\n      scheduler: round_robin\n')
    net.reload(text)
    try:
        assert who(net, 16) == {"10.0.0.11": 12, "10.0.0.12": 4}
    finally:
        net.reload(section(net))


def test_open_connections_are_counted_exactly(net):
    """[B43; U9] Nine that stay open: three for each, whoever let them in, and whatever became
    of connections and instances before."""
    open_now = [keep(net) for _ in range(9)]
    seen = Counter(ask() for _, ask in open_now)
    for client, _ in open_now:
        client.close()
    assert set(seen.values()) == {3}, seen


def test_floods_do_no_harm(net):
    """[B53; U17, U25] SYNs to the service from random sources, segments of no connection, and
    ICMP errors: downloads beside them arrive, and when an instance is killed."""
    floods = [peers.flood(net, "outside", *words) for words in (
        ("-S", "-p", "80", "--rand-source", VIP[4]),
        ("-A", "-p", "80", "-s", "++2000", VIP[4]),
        ("-1", "-C", "3", "-K", "1", "--rand-source", VIP[4]))]
    before = net.counters()["received"]
    wait_for(lambda: net.counters()["received"] > before + 3000, 20, "floods")
    peers.downloads_survive(net, "inside", "outside", [VIP[4]], net.want)
    assert any(process.alive for process in floods)
    for process in floods:
        process.stop()
    assert sum(who(net, 10).values()) == 10


def test_what_is_for_no_service_is_left_alone(net):
    """[B47] Addresses of others pass as they are."""
    assert curl(net, peers.url("10.0.0.1", "who")) == "10.0.0.1"


# --- Tunnels ---------------------------------------------------------------------------

TUNNELS = """
lb:
  tunnel_source: [198.18.0.9, "2001:db8:9::9"]
  services:
    - {address: "IPIP:80", mode: dsr_ipip, backends: [V4, W4]}
    - {address: "IPIP:7100", mode: dsr_ipip, backends: ["10.0.0.11:7100"]}
    - {address: "GUE:80", mode: dsr_gue, backends: [V4, W4]}
    - {address: "GUE:7100", mode: dsr_gue, backends: ["10.0.0.11:7100"]}
    - {address: "[2001:db8:203::83]:80", mode: dsr_ipip, backends: [V6, W6]}
    - {address: "[2001:db8:203::83]:7100", mode: dsr_ipip, backends: ["[fd00::11]:7100"]}
    - {address: "[2001:db8:203::84]:80", mode: dsr_gue, backends: [V6, W6]}
    - {address: "[2001:db8:203::84]:7100", mode: dsr_gue, backends: ["[fd00::11]:7100"]}
""".replace("IPIP", "203.0.113.83").replace("GUE", "203.0.113.84").replace(
    "V4", '"10.0.0.11:80"').replace("W4", '"10.0.0.12:80"').replace(
    "V6", '"[fd00::11]:80"').replace("W6", '"[fd00::12]:80"')
TUNNELLED = {("ipip", 4): "203.0.113.83", ("gue", 4): "203.0.113.84",
             ("ipip", 6): "2001:db8:203::83", ("gue", 6): "2001:db8:203::84"}

# What a kernel's ipip, ip6tnl and fou devices do, which not every kernel has.  Says where
# the outer packets were for.
TUNNEL_END = """
import fcntl, os, select, socket, struct, sys
TUNSETIFF, IFF_TUN_NO_PI, UDP_NO_CHECK6_RX = 0x400454ca, 0x1001, 102
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", b"tunnel0", IFF_TUN_NO_PI))
os.system("ip link set tunnel0 up")
ends, seen = {}, set()
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    inner = 41 if ":" in address else 4
    ipip, gue = socket.socket(family, socket.SOCK_RAW, inner), socket.socket(family, 2)
    if inner == 41:
        gue.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
    ipip.bind((address, 0))
    gue.bind((address, 6080))
    ends[ipip], ends[gue] = (f"ipip {address}", 0), (f"gue {address}", bytes((0, inner, 0, 0)))
print("ready", flush=True)
while True:
    for s in select.select(list(ends), [], [])[0]:
        packet, (name, head) = s.recv(65536), ends[s]
        if head:
            assert packet[:4] == head, packet
            packet = packet[4:]
        elif s.family == socket.AF_INET:
            packet = packet[(packet[0] & 15) * 4:]
        if name not in seen:
            seen.add(name)
            print(name, flush=True)
        os.write(tun, packet)
"""


@pytest.fixture(scope="module")
def tunnels(whole):
    net, addresses = whole, [*BACKENDS[4][:2], *BACKENDS[6]]
    net.use(peers.config(TUNNELS, "lb", "mtu: {inside: 1500, outside: 1500}\n"))
    net.sh("inside", "sysctl -qw net.ipv4.conf.all.rp_filter=0 "
           "net.ipv4.conf.default.rp_filter=0",
           *(f"ip addr add {a} dev lo" for a in TUNNELLED.values()))
    end = net.lab.start("tunnel-end", ["/usr/bin/python3", "-c", TUNNEL_END, *addresses],
                        "inside")
    end.wait_log("ready")
    net.tunnel_end = end
    yield net
    end.kill()
    net.sh("inside", *(f"ip addr del {a} dev lo" for a in TUNNELLED.values()))
    net.stop()
    net.text = None


tunnel = pytest.mark.parametrize("kind,ip", list(TUNNELLED), ids=str)


@tunnel
def test_direct_return_by_tunnel(tunnels, kind, ip):
    """[B47] Backends that end the tunnel get what the client sent, and answer directly."""
    net = tunnels
    net.heal()
    address = TUNNELLED[kind, ip]
    for _ in range(8):
        assert curl(net, peers.url(address, "who")) == address
    seen = net.tunnel_end.log()
    assert all(f"{kind} {b}" in seen for b in BACKENDS[ip][:2]), seen
    peers.downloads_survive(net, "inside", "outside", [address], net.want)


@tunnel
def test_clients_learn_what_a_tunnel_leaves(tunnels, kind, ip):
    """[B12, B47, B48; U18] Clients' segments are made smaller by our errors, and a
    backend's by a router's, which go through the tunnel to it."""
    net = tunnels
    net.heal()
    more = {"ipip": {4: 20, 6: 40}, "gue": {4: 32, 6: 52}}[kind][ip]
    address = TUNNELLED[kind, ip]
    with bound(net, "inside", address, 7100) as server:
        with connect(net, "outside", address, 7100) as one, server.accept()[0] as other:
            other.settimeout(peers.PATIENCE_S)
            peers.transfer(one, other, b"x" * (1 << 18))
            level, option = (41, 24) if ip == 6 else (0, 14)
            assert one.getsockopt(level, option) == 1500 - more
    net.sh("outside", f"ip -{ip} route flush cache")
    mtu = peers.upload_finds_mtu(net, "outside", "inside", address, address)[1]
    assert mtu == 1300


# --- Backends that come and go ---------------------------------------------------------

CHECKED = """
lb:
  address: "203.0.113.80:80"
  scheduler: round_robin
  backends: ["10.0.0.11:80", "10.0.0.12:80"]
  backend_down: reset
  check: {type: http, path: /who, interval: 200ms, timeout: 150ms, rise: 2, fall: 2}
"""


def unplug(net, *backends):
    """From now on these backends say nothing any more."""
    net.sh("inside", "nft add table inet off", "nft add chain inet off in"
           " '{ type filter hook input priority 0; }'", "nft flush chain inet off in",
           *(f"nft add rule inet off in ip daddr {b} tcp dport 80 drop" for b in backends))


@pytest.fixture
def checked(whole):
    """The same with health checks, over links of the instances' own."""
    unplug(whole)
    whole.stop()
    whole.managed = True
    whole.use(peers.config(CHECKED, "lb"))
    yield whole
    unplug(whole)
    whole.stop()
    whole.managed, whole.text = False, None


def quick(net, *words):
    return net.lab.run_raw("curl", "-q", "-sS", "--max-time", "1", peers.url(VIP[4], "who"),
                           *words, netns="outside")


def test_connections_of_a_dead_backend_end_and_new_ones_avoid_it(checked):
    """[B44, B46; U22] The checks go on when the instance that makes them is killed."""
    net = checked
    wait_for(lambda: len({quick(net).stdout for _ in range(4)} - {""}) == 2, 10, "backends")
    client, ask = keep(net)
    with client:
        mine = ask()
        unplug(net, mine)
        def avoided():
            return all(quick(net).stdout not in ("", mine) for _ in range(4))
        wait_for(avoided, 10, "a check that fails")
        client.settimeout(peers.PATIENCE_S)
        with pytest.raises((ConnectionResetError, AssertionError)):
            while True:
                ask()
    net.kill()
    unplug(net)
    wait_for(lambda: mine in {quick(net).stdout for _ in range(4)}, 15, "its return")
    net.heal()


def test_without_a_backend_a_client_is_told_at_once(checked):
    """[B44; case 51] A reset, and service again when one is back."""
    net = checked
    wait_for(lambda: quick(net).returncode == 0, 10, "a backend")
    unplug(net, "10.0.0.11", "10.0.0.12")
    wait_for(lambda: quick(net).returncode == 7, 15, "a refusal")      # Not 28: no answer.
    unplug(net)
    wait_for(lambda: quick(net).returncode == 0, 15, "a backend")


def test_one_set_of_checks_for_two_instances(checked):
    """[B44] As many as one would make."""
    net = checked
    net.sh("inside", "nft add table inet count",
           "nft add counter inet count checks",
           "nft add chain inet count in '{ type filter hook input priority -1; }'",
           "nft add rule inet count in ip saddr 10.8.0.0/16 ip daddr 10.0.0.11"
           " tcp flags syn counter name checks")
    def checks():
        said = json.loads(net.sh("inside", "nft -j list counters table inet count"))
        return next(x["counter"]["packets"] for x in said["nftables"] if "counter" in x)
    wait_for(lambda: checks() > 2, 10, "checks")
    began, before = time.monotonic(), checks()
    wait_for(lambda: checks() >= before + 10, 20, "ten checks")
    per_check = (time.monotonic() - began) / 10
    net.sh("inside", "nft delete table inet count")
    assert per_check > 0.14, f"one in {per_check:.3f} s, where 0.2 s is the interval"


def test_the_virtual_address_is_on_the_link_if_it_has_a_mac_address(whole):
    """[B49; U31] Whoever is asked for it answers, and always the same."""
    net = whole
    text = section(net).replace("lb:\n", 'lb:\n  mac: "02:00:5e:00:00:02"\n').replace(
        WEB, ", ".join(f'{{address: "{b}:80", mac: "{net.mac}"}}' for b in BACKENDS[4]))
    net.use(text)
    net.sh("router", "ip route replace 203.0.113.0/24 dev eth0", "ip neigh flush dev eth0")
    try:
        for _ in range(4):
            assert curl(net, peers.url(VIP[4], "who")) in BACKENDS[4]
            said = net.lab.run("ip", "neigh", "show", VIP[4], netns="router")
            assert "02:00:5e:00:00:02" in said, said
            net.sh("router", f"ip neigh del {VIP[4]} dev eth0")
    finally:
        net.sh("router", f"ip route replace 203.0.113.0/24 via {peers.INSIDE[4]}")
        net.stop()
        net.text = None
