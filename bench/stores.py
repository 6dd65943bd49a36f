"""stores.py - the scenarios of the store: bench-store on the NF core against servers on
the store core.  As those in run, each gives rows, numbers and problems; a number is the
median of its rounds, and a ratio that of the rounds' own.
"""
import os
import statistics
import time

from machine import OUT, Failed, json_of, say
from report import bars
from servers import ask, cluster, free_port, info, memcached, replica, server


def bench_store(b, case, seconds, *words, timeout_s=180):
	return json_of(b, [f"{OUT}/bench-store", case, str(seconds), *map(str, words)],
		       timeout_s, b.nf_core)


def unix(path):
	return f"valkey+unix://{path}"


def middle(values, digits=3):
	values = list(values)
	return round(statistics.median(values), digits) if values else None


# The comparison.

def compare_round(b, transport, keys, in_flight, seconds):
	port = free_port() if transport == "tcp" else 0
	with server(b, port=port) as path, \
	     memcached(b, free_port() if port else 0) as peer:
		url = f"valkey://127.0.0.1:{port}" if port else unix(path)
		redis = f"127.0.0.1:{port}" if port else path
		return bench_store(b, "points", seconds, keys, in_flight, url, redis, peer,
				   timeout_s=600)


def compare_numbers(rounds, transport):
	"""Of rounds, each {(server, what, keys, in_flight): row}."""
	def values(field, *point):
		return middle(found[point][field] for found in rounds)

	def ratio(what, other):
		return middle(found["store", what, 100, 4]["mops"]
			      / found[other, what, 100, 4]["mops"] for found in rounds)

	name = "store" if transport == "unix" else "store_tcp"
	numbers = {}
	for what in ("read", "write"):
		numbers[f"{name}_{what}_mops_100"] = values("mops", "store", what, 100, 4)
		for n in (1, 100):
			for p in ("p50", "p99"):
				numbers[f"{name}_{what}{n}_us_{p}"] = values(
					f"{p}_us", "store", what, n, 1)
	numbers[f"{name}_vs_mget"] = ratio("read", "redis")
	numbers[f"{name}_vs_mset"] = ratio("write", "redis")
	numbers[f"{name}_vs_memcached"] = ratio("read", "memcached")
	numbers[f"{name}_write_vs_memcached"] = ratio("write", "memcached")
	return numbers


def compare(b):
	keys, in_flight, seconds = ("1,100", "1,4", 0.15) if b.quick else (
		"1,10,100,500", "1,4,16", 0.5)
	rows, numbers = [], {}
	for transport, n in (("unix", 3), ("tcp", 1 if b.quick else 3)):
		rounds = []
		for i in range(n):
			found = compare_round(b, transport, keys, in_flight, seconds)
			rounds.append({(r["server"], r["what"], r["keys"], r["in_flight"]): r
				       for r in found})
			say(f"  {transport}, round {i + 1}: " + ", ".join(
				f"{who} {rounds[-1][who, 'read', 100, 4]['mops']:.2f}"
				for who in ("store", "redis", "memcached")) + " M lookups/s")
		for server_name, what, n_keys, flying in rounds[0]:
			point = server_name, what, n_keys, flying
			rows.append({"transport": transport, "server": server_name, "what": what,
				     "keys": n_keys, "in_flight": flying, **{
					     field: middle(found[point][field] for found in rounds)
					     for field in ("mops", "p50_us", "p99_us")}})
		numbers.update(compare_numbers(rounds, transport))
	return rows, numbers, {}


def draw_compare(ax, rows):
	bars(ax, [dict(row, point=f"{row['what']} {row['keys']} x {row['in_flight']}")
		  for row in rows if row["transport"] == "unix" and row["in_flight"] in (1, 4)
		  and row["keys"] in (1, 100)],
	     "point", "mops", "server", "million keys per second")
	ax.set_xlabel("keys in a request x requests in flight, unix socket")
	ax.set_yscale("log")


# What is not there.

def misses(b):
	seconds = 0.15 if b.quick else 0.6
	with server(b) as path:
		rows = bench_store(b, "misses", seconds, unix(path))
	with server(b) as path:
		floods = bench_store(b, "flood", seconds, unix(path))
		evicted = int(info(path)["snf_evicted"])
	if evicted == 0:
		raise Failed("nothing was evicted: the flood did not fill the table")
	rows = [{"case": case, "round": row["round"], **{
		name: row[f"{case}_{name}"] for name in ("mops", "p50_us", "p99_us")},
		"syn_mops": row["syn_mops"] if case == "during" else None}
		for cases, found in ((("hit", "miss"), rows), (("before", "during"), floods))
		for case in cases for row in found]

	def ratio(a, c):
		return middle(x["mops"] / y["mops"] for x, y in zip(
			[row for row in rows if row["case"] == a],
			[row for row in rows if row["case"] == c]))
	return rows, {
		"store_miss_vs_hit": ratio("miss", "hit"),
		"flood_syn_mops": middle(row["syn_mops"] for row in floods),
		"flood_reads_mops_before": middle(row["before_mops"] for row in floods),
		"flood_reads_mops": middle(row["during_mops"] for row in floods),
		"flood_read_us_p50": middle(row["during_p50_us"] for row in floods)}, {}


def draw_misses(ax, rows):
	names = {"hit": "there", "miss": "not there", "before": "before the flood",
		 "during": "during the flood"}
	bars(ax, [dict(row, lookups=names[row["case"]]) for row in rows], "lookups", "mops",
	     "round", "million lookups per second")


# Output commit.

def commit(b):
	port = free_port()
	with server(b, port=port, options=("--repl-diskless-sync-delay", 0)) as path, \
	     replica(b, port, b.nf_core):
		rows = bench_store(b, "commit", 0.1 if b.quick else 1, unix(path))
	at = {(row["keys"], row["in_flight"]): row for row in rows if row["what"] == "write"}
	reads = {beside: [row for row in rows if row["what"] == "read"
			  and row["beside"] == beside]
		 for beside in ("nothing", "commit 0", "commit 1")}
	p50 = {beside: middle(row["p50_us"] for row in found) for beside, found in reads.items()}
	for row in rows:
		row["beside_mops"] = row.get("beside_mops")
	return rows, {
		"commit1_write_kops": round(1000 * at[100, 16]["mops"], 1),
		"commit1_write_us_p50": round(at[100, 1]["p50_us"], 1),
		"commit1_write_us_p99": round(at[100, 1]["p99_us"], 1),
		"commit1_write1_us_p50": round(at[1, 1]["p50_us"], 1),
		"commit1_write1_us_p99": round(at[1, 1]["p99_us"], 1),
		"reads_alone_us_p50": p50["nothing"],
		"reads_beside_writes_us_p50": p50["commit 0"],
		"reads_beside_commit_us_p50": p50["commit 1"],
		"reads_beside_commit_us_p99": middle(row["p99_us"] for row in reads["commit 1"]),
		"reads_beside_commit_ratio": middle(
			x["p50_us"] / y["p50_us"] for x, y in zip(reads["commit 1"],
								  reads["commit 0"]))}, {}


def draw_commit(ax, rows):
	bars(ax, [dict(row, frame=f"{row['keys']} keys") for row in rows
		  if row["what"] == "write"],
	     "frame", "p50_us", "in_flight", "us until a replica has it, median")
	ax.set_xlabel("in a frame; colours: frames in flight")


# Growing by servers.

def shards(b):
	rows = []
	for n in (1, 8) if b.quick else (1, 2, 4, 8):
		with cluster(b, n) as (port, pids):
			rows += bench_store(b, "shards", 0.8 if b.quick else 4,
					    f"valkey+cluster://127.0.0.1:{port}",
					    ",".join(map(str, pids)))
		reads = [row for row in rows if row["shards"] == n and row["what"] == "read"]
		say(f"  {n} servers: {reads[0]['cpu_s']:.3f} CPU seconds per million reads")
	cost = {(row["shards"], row["what"], row["keys"]): row["cpu_s"] for row in rows}
	shared = {(row["shards"], row["what"]): row["cpu_s"] for row in rows
		  if row["keys"] * row["shards"] == 400}
	most = max(row["shards"] for row in rows)
	ratios = {n: max(cost[n, what, 100] / cost[1, what, 100] for what in ("read", "write"))
		  for n in sorted({row["shards"] for row in rows})}
	return rows, {
		"shard_read_cpu_s_1": round(cost[1, "read", 100], 4),
		"shard_write_cpu_s_1": round(cost[1, "write", 100], 4),
		"shard_cost_ratio_8": round(ratios[most], 3),
		"shard_cost_ratio_max": round(max(ratios.values()), 3),
		"shard_split_ratio_8": round(max(shared[most, what] / shared[1, what]
						 for what in ("read", "write")), 3)}, {}


def draw_shards(ax, rows):
	bars(ax, [row for row in rows if row["keys"] == 100], "shards", "cpu_s", "what",
	     "CPU seconds per million")
	ax.set_xlabel("servers; frames of 100 keys to each")


# Many connections.

def connections_of(b, n):
	"""Memory, full synchronisation and restart with n of them."""
	port, row = free_port(), {"connections": n}
	with server(b, "many", port=port, options=("--repl-diskless-sync-delay", 0)) as path:
		base = info(path)
		row["fill_s"] = bench_store(b, "fill", 1, unix(path), n)[0]["fill_s"]
		full = info(path)
		for name, field in (("bytes", "snf_memory_bytes"), ("used_bytes", "used_memory"),
				    ("rss_bytes", "used_memory_rss")):
			row[name] = round((int(full[field]) - int(base[field])) / n, 1)
		with replica(b, port, b.nf_core, start_s=120) as (copy, seconds):
			row["sync_s"] = round(seconds, 2)
			check_records(copy, n)
		row["fork_ms"] = int(info(path, "stats")["latest_fork_usec"]) / 1000
		if not ask(path, "SAVE").startswith("+OK"):
			raise Failed("the server does not save")
	file = f"{b.tmp}/many/dump.rdb"
	row["rdb_bytes"] = round(os.path.getsize(file) / n, 1)
	began = time.monotonic()
	with server(b, "many", start_s=120) as path:
		row["restart_s"] = round(time.monotonic() - began, 2)
		check_records(path, n)
	os.unlink(file)
	return row


def check_records(path, n):
	there = int(info(path)["snf_records"])
	if there != n:
		raise Failed(f"{there} records are there instead of {n}")


def capacity(b):
	rows = []
	for n in (10_000_000,) if b.quick else (1_000_000, 10_000_000):
		rows.append(connections_of(b, n))
		say(f"  {n:,} connections: {rows[-1]['bytes']} bytes each, replica in step after"
		    f" {rows[-1]['sync_s']} s, restarted in {rows[-1]['restart_s']} s")
	last = rows[-1]
	return rows, {"bytes_per_connection_10m": last["bytes"],
		      "rss_per_connection_10m": last["rss_bytes"],
		      "restart_10m_s": last["restart_s"], "sync_10m_s": last["sync_s"],
		      "fork_10m_ms": last["fork_ms"]}, {}


def draw_capacity(ax, rows):
	by = (("the module's count", "bytes"), ("used_memory", "used_bytes"),
	      ("resident", "rss_bytes"), ("RDB file", "rdb_bytes"))
	bars(ax, [{"connections": f"{row['connections']:,}", "by": name, "bytes": row[column]}
		  for row in rows for name, column in by],
	     "connections", "bytes", "by", "bytes per connection")


# Listing them.

def scan(b):
	with server(b, options=("--slowlog-log-slower-than", 1000)) as path:
		rows = bench_store(b, "scan", 1 if b.quick else 5, unix(path), path, 1_000_000)
		slow = int(ask(path, "SLOWLOG LEN")[1:])
	row = rows[0]
	return rows, {"scan_calls_over_1ms": slow, "scan_call_us_p50": row["scan_p50_us"],
		      "scan_call_us_max": row["scan_max_us"],
		      "reads_beside_scan_us_p50": row["beside_p50_us"],
		      "reads_beside_scan_us_p99": row["beside_p99_us"],
		      "reads_without_scan_us_p50": row["alone_p50_us"]}, {}


def draw_scan(ax, rows):
	names = {"alone": "reads alone", "beside": "reads beside scans", "scan": "scans"}
	bars(ax, [{"what": name, "time": time_name, "us": row[f"{what}_{field}"]}
		  for row in rows for what, name in names.items()
		  for time_name, field in (("median", "p50_us"), ("99 %", "p99_us"),
					   ("longest", "max_us"))],
	     "what", "us", "time", "us")
	ax.set_yscale("log")


# What each has to find; null in the summary if it did not.
NUMBERS = {
	"store": tuple(f"{name}_{number}" for name in ("store", "store_tcp") for number in (
		"read_mops_100", "write_mops_100", "vs_mget", "vs_mset", "vs_memcached",
		"write_vs_memcached", *(f"{what}{n}_us_{p}" for what in ("read", "write")
					for n in (1, 100) for p in ("p50", "p99")))),
	"misses": ("store_miss_vs_hit", "flood_syn_mops", "flood_reads_mops_before",
		   "flood_reads_mops", "flood_read_us_p50"),
	"commit": ("commit1_write_kops", "commit1_write_us_p50", "commit1_write_us_p99",
		   "commit1_write1_us_p50", "commit1_write1_us_p99", "reads_alone_us_p50",
		   "reads_beside_writes_us_p50", "reads_beside_commit_us_p50",
		   "reads_beside_commit_us_p99", "reads_beside_commit_ratio"),
	"shards": ("shard_read_cpu_s_1", "shard_write_cpu_s_1", "shard_cost_ratio_8",
		   "shard_cost_ratio_max", "shard_split_ratio_8"),
	"capacity": ("bytes_per_connection_10m", "rss_per_connection_10m", "restart_10m_s",
		     "sync_10m_s", "fork_10m_ms"),
	"scan": ("scan_calls_over_1ms", "scan_call_us_p50", "scan_call_us_max", "reads_beside_scan_us_p50",
		 "reads_beside_scan_us_p99", "reads_without_scan_us_p50"),
}
# As in run.
SCENARIOS = (
	("store", "The store alone",
	 "Packed frames against plain MGET and MSET of the same server, and memcached; 300,000"
	 " records of 16 + 16 bytes. 16 in flight are 8 on each of two connections.",
	 compare, draw_compare, True),
	("misses", "What is not there",
	 "Lookups in a million connections, 100 keys a frame, 4 in flight; and of 300,000"
	 " established ones while a million SYNs a second from new addresses are looked up,"
	 " made half-open and evict each other.", misses, draw_misses, True),
	("commit", "Writes that wait for a replica",
	 "commit: 1, primary and replica on this machine, three processes on two cores; and"
	 " reads of 100 keys beside 100,000 writes a second.", commit, draw_commit, True),
	("shards", "Cost of an operation as the store grows",
	 "CPU time of client and servers, at a fixed load at which both sleep in between: 3,500"
	 " frames a second to each server.", shards, draw_shards, True),
	("capacity", "Millions of connections",
	 "Memory of a tracked IPv4 connection, RDB file, restart, and full synchronisation of a"
	 " replica.", capacity, draw_capacity, True),
	("scan", "Listing a million records",
	 "SNF.SCAN, 1,000 records a call, one after another, beside reads of 100 keys, one"
	 " frame in flight.", scan, draw_scan, True),
)
