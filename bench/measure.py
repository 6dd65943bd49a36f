"""measure.py - how bench/run gets a number of an instance: snf-bench on its core, a store
for one measurement, rounds of several cases.
"""
import contextlib
import statistics

from machine import OUT, STORES, Failed, json_of, say
from servers import counters, server

FLOWS = 100_000
LONG = 1_000_000		# Packets of a flow: in a run hardly any closes.

FIREWALL = "firewall: {rules: [{action: allow, direction: out}]}"
# A port rests for two minutes: so many that those of new connections do not run out.
NAT = "nat: {addresses: 198.19.0.0/26}"
LB = "lb: {address: 203.0.113.1:80, backends: [%s]}" % ", ".join(
	f"192.168.0.{i}:80" for i in range(1, 9))

# 'function', the sections, what the source needs besides, the clients' side.
FUNCTIONS = {
	"firewall": ("firewall", FIREWALL, {}, "inside"),
	"nat": ("nat", NAT, {}, "inside"),
	"lb": ("lb", LB, {"to": "203.0.113.1"}, "outside"),
	"firewall_nat": ("[firewall, nat]", FIREWALL + "\n" + NAT, {}, "inside"),
	"reassembly": ("reassembly", "reassembly: {max_held: 64}", {}, "inside"),
	"ips": ("ips", "ips: {signatures: [{id: 1, content: 'in no packet', action: alert}]}",
		{}, "inside"),
}


# One measurement, and rounds of several.

def measure(b, seconds, remote=True, function="firewall", **gen):
	"""What snf-bench prints, and as "store" by how much the server's counters rose."""
	name, sections, extra, side = FUNCTIONS[function]
	source = {"size": 64, "flows": FLOWS, "packets": LONG, **extra, **gen}
	path = f"{b.tmp}/bench.yaml"
	command = [f"{OUT}/snf-bench", path, str(seconds), str(b.nf_core)]
	command += [side] if side != "inside" else []
	with server(b) if remote else contextlib.nullcontext() as socket_path:
		url = f"valkey+unix://{socket_path}" if remote else "embedded:"
		spec = ",".join(f"{key}={value}" for key, value in source.items())
		with open(path, "w") as f:
			f.write(f'function: {name}\nstore: "{url}"\nports:\n'
				f'  inside: "gen:{spec}"\n  outside: "gen:"\n{sections}\n')
		before = counters(socket_path) if remote else {}
		result = json_of(b, command, seconds + (30 if b.quick else 120), b.nf_core)
		after = counters(socket_path) if remote else {}
	result["store"] = {name: after[name] - before[name] for name in after}
	check(result, source, remote)
	b.shares += [result["cpu"]] if "cpu" in result else []
	return result


def check(result, source, remote):
	"""That what was counted is what was meant to be."""
	dropped, received = sum(result["dropped"].values()), result["received"]
	if result["sent"] == 0:
		raise Failed("no packet came through")
	if dropped > 0.01 * received:
		raise Failed(f"{dropped / received:.1%} of the packets were dropped: "
			     + ", ".join(result["dropped"]))
	if source["packets"] < 10000:
		return
	if result["established"] < 0.95 * result["flows"]:
		raise Failed(f"only {result['established']} of {result['flows']} flows were open")
	if remote and result["store"]["snf_reads"] < 0.9 * received:
		raise Failed("most packets did not read the store")


def alternate(b, cases, n, seconds):
	"""n rounds of all cases, {key: options of measure()}.  Gives {key: [result]}, empty
	if it failed, and of those {key: why}."""
	found, problems = {key: [] for key in cases}, {}
	for i in range(n):
		for key in [key for key in cases if key not in problems]:
			name = " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
			try:
				r = measure(b, seconds, **cases[key])
			except Failed as failed:
				problems[name] = problems[key] = str(failed)
				found[key] = []
				say(f"  {name}: {failed}")
				continue
			found[key].append(r)
			kps = f", {r['connections_kps']:.1f} k connections/s"
			say(f"  round {i + 1}: {name:20} {r['mpps']:7.3f} Mpps, p50"
			    f" {r['p50_us']:.1f} us{kps if r['connections_kps'] >= 1 else ''}"
			    f"{', %.0f %% of the core' % (100 * r['cpu']) if 'cpu' in r else ''}")
	return found, {name: why for name, why in problems.items() if isinstance(name, str)}


def both(**options):
	return {store: dict(options, remote=store == "remote") for store in STORES}


def median(results, field, digits=3):
	values = [result[field] for result in results]
	return round(statistics.median(values), digits) if values else None


def ratio(a, b, field="mpps"):
	"""The median of the rounds' own ratios."""
	values = [x[field] / y[field] for x, y in zip(a, b) if y[field]]
	return round(statistics.median(values), 3) if values else None


def cycles(results):
	"""By stage, of the round that came out in the middle."""
	in_order = sorted(results, key=lambda result: result["mpps"])
	return in_order[len(in_order) // 2]["cycles_per_packet"]
