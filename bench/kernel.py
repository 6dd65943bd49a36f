"""kernel.py - the NAT beside Linux's: nftables with conntrack and SNAT as a router, and our
NAT as a bump in the wire, over the same veths, from the same generator.

    bench-flood --- in0, one or the other, out0 --- sink

The generator is on the first core, what is measured on the second: the kernel by RPS, ours
by its affinity, its store's state in the process.  What arrives at the sink is counted by
its device.  A sender through veths may be the slower end, so what is compared is packets by
the time that the second core was busy, all that it did included.
"""
import json
import os
import sys

from machine import BUILD, OUT, ROOT, Failed, say
from measure import median, ratio

sys.path.insert(0, os.path.join(ROOT, "tests", "system"))
os.environ.setdefault("SNF_BUILD", BUILD)
from lab import Lab, missing_rights  # noqa: E402

FLOWS = (100, 10_000)
MAC, SINK = "02:00:00:00:00:0e", "02:00:00:00:00:77"
RULES = """
table inet filter {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname "in0" ct state new accept
  }
}
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname "out0" snat to 203.0.113.1
  }
}
"""
CONFIG = """
function: nat
store: "embedded:"
ports: {inside: "af_packet:in0", outside: "af_packet:out0"}
nat: {addresses: [203.0.113.1]}
"""


def core_time(core):
	"""Of a core since the start, in ticks: busy, and all."""
	with open("/proc/stat") as stat:
		fields = next(line for line in stat if line.startswith(f"cpu{core} ")).split()[1:9]
	ticks = list(map(int, fields))
	return sum(ticks) - ticks[3] - ticks[4], sum(ticks)		# idle, iowait


def rate(b, lab, flows, seconds):
	"""Packets per second at the sink, once all flows are open."""
	counters = lab.counters("sink")
	def flood(for_s):
		before, (busy, all_of_it) = counters()["eth0"][0], core_time(b.nf_core)
		sent = json.loads(lab.run(
			"taskset", "-c", str(b.store_core), f"{OUT}/bench-flood", "eth0", MAC,
			str(flows), str(for_s), netns="source"))
		now_busy, now = core_time(b.nf_core)
		return ((counters()["eth0"][0] - before) / sent["seconds"] / 1e6,
			sent["sent"] / sent["seconds"] / 1e6,
			(now_busy - busy) / max(now - all_of_it, 1))
	flood(0.5)
	got, offered, busy = flood(seconds)
	if got == 0 or busy == 0:
		raise Failed("no packet came through")
	return {"mpps": round(got, 4), "offered_mpps": round(offered, 4),
		"core": round(busy, 3), "mpps_per_core": round(got / busy, 4)}


def linux(b, flows, seconds):
	with Lab() as lab:
		for host in ("source", "linux", "sink"):
			lab.host(host)
			lab._quiet(host)
		lab.link("source:eth0", "linux:in0")
		lab.link("sink:eth0", "linux:out0")
		mask = f"{1 << b.nf_core:x}"
		lab.run("sh", "-ec", f"""
			sysctl -qw net.ipv4.ip_forward=1
			ip link set in0 address {MAC}
			ip addr add 10.0.255.254/16 dev in0
			ip addr add 192.0.2.254/24 dev out0
			ip addr add 203.0.113.1/32 dev out0
			ip neigh add 192.0.2.1 lladdr {SINK} dev out0
			mount -t sysfs sysfs /sys
			echo {mask} >/sys/class/net/in0/queues/rx-0/rps_cpus
			""", netns="linux")
		lab.run("nft", "-f", "-", netns="linux", stdin=RULES)
		return rate(b, lab, flows, seconds)


def ours(b, flows, seconds):
	with Lab() as lab:
		for host in ("source", "sink"):
			lab.host(host)
			lab._quiet(host)
		nat = lab.snf(CONFIG, links={"in0": "source:eth0", "out0": "sink:eth0"})
		for task in os.listdir(f"/proc/{nat.pid}/task"):
			os.sched_setaffinity(int(task), {b.nf_core})
		return rate(b, lab, flows, seconds)


def scenario(b):
	if missing_rights():
		raise Failed(missing_rights())
	found = {(name, flows): [] for flows in (FLOWS[-1:] if b.quick else FLOWS)
		 for name in WAYS}
	for i in range(2 if b.quick else 5):
		for (name, flows), results in found.items():
			got = WAYS[name](b, flows, 1 if b.quick else 3)
			results.append(got)
			say(f"  round {i + 1}: {name:9} {flows:6} flows {got['mpps']:7.3f} Mpps of"
			    f" {got['offered_mpps']:.3f} offered, {got['core']:.0%} of the core")
	rows = [{"what": name, "flows": flows,
		 **{field: median(results, field) for field in results[0]}}
		for (name, flows), results in found.items()]
	numbers = {f"{row['what']}_veth_mpps_{row['flows']}": row["mpps_per_core"]
		   for row in rows}
	many = FLOWS[-1]
	numbers["nat_vs_nftables"] = ratio(found["nat", many], found["nftables", many],
					   "mpps_per_core")
	return rows, numbers, {}


WAYS = {"nftables": linux, "nat": ours}
NAMES = ("nat_vs_nftables", *(f"{name}_veth_mpps_{flows}" for name in WAYS for flows in FLOWS))
