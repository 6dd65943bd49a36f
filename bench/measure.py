"""measure.py - how bench/run gets a number: processes on their cores, a store for one
measurement, rounds of several cases.

All of it takes the bench that opened() gives: where things are, which cores are used,
and which processes run.  Whatever ends the run, the processes end with it.
"""
import contextlib
import datetime
import glob
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(os.environ.get("SNF_BUILD", os.path.join(ROOT, "build")))
OUT = os.path.join(BUILD, "bench")
IDLE_LOAD = 0.3
HUGE_PAGES = "/proc/sys/vm/nr_hugepages"
N_HUGE_PAGES = 640		# Of 2 MiB: EAL_MEMORY_MB and a rest.
STORES = ("embedded", "remote")
FLOWS = 100_000
LONG = 1_000_000		# Packets of a flow: in a run hardly any closes.

# The function's own section, what the source needs besides, the clients' side.
FUNCTIONS = {
	"firewall": ("rules: [{action: allow, direction: out}]", {}, "inside"),
	"nat": ("addresses: [%s]" % ", ".join(f"198.19.0.{i}" for i in range(1, 9)),
		{}, "inside"),
	"lb": ("{address: 203.0.113.1:80, backends: [%s]}" % ", ".join(
		f"192.168.0.{i}:80" for i in range(1, 9)), {"to": "203.0.113.1"}, "outside"),
	"reassembly": ("max_held: 64", {}, "inside"),
	"ips": ("signatures: [{id: 1, content: 'in no packet', action: alert}]", {}, "inside"),
}


class Failed(Exception):
	"""A measurement gave no number; the text is the reason."""


class Stopped(BaseException):
	"""A signal came."""


def say(text):
	print(text, file=sys.stderr, flush=True)


def on_signal(number, _frame):
	for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
		signal.signal(each, signal.SIG_IGN)		# What follows cleans up.
	raise Stopped(number)


def write(path, text):
	with open(path, "w") as f:
		f.write(text)


def reserve_huge_pages():
	"""As on any machine that runs DPDK for speed.  Returns what was there before, None
	if nothing was changed; without them normal pages do."""
	before = open(HUGE_PAGES).read().strip()
	if int(before) >= N_HUGE_PAGES:
		return None
	try:
		write(HUGE_PAGES, str(N_HUGE_PAGES))
	except OSError:
		return None
	return before


@contextlib.contextmanager
def opened(quick):
	"""The bench.  Signals raise Stopped from here on."""
	for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
		signal.signal(number, on_signal)
	sweep()
	tmp = tempfile.mkdtemp(prefix=f"snf-bench-{os.getpid()}-", dir="/tmp")	# Short paths.
	cpus = sorted(os.sched_getaffinity(0))
	b = types.SimpleNamespace(
		quick=quick, tmp=tmp, store_core=cpus[0], nf_core=cpus[min(1, len(cpus) - 1)],
		running=[], shares=[], throughput={},
		# DPDK's sockets and what others want to put into /tmp go with the folder.
		env=dict(os.environ, SNF_BUILD=BUILD, TMPDIR=tmp, RUNTIME_DIRECTORY=tmp))
	huge = reserve_huge_pages()
	try:
		yield b
	finally:
		for process in list(b.running):
			stop(b, process)
		shutil.rmtree(tmp, ignore_errors=True)
		if huge is not None:
			write(HUGE_PAGES, huge)


def sweep():
	"""Removes folders of runs that were killed."""
	for path in glob.glob("/tmp/snf-bench-*-*"):
		pid = path.split("-")[2]
		if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
			shutil.rmtree(path, ignore_errors=True)


def conditions(quick):
	"""What a number depends on besides the code."""
	def git(*words):
		got = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)
		return got.stdout.strip() or "unknown"
	def field(path, name):
		lines = [line.split(":", 1)[1] for line in open(path) if line.startswith(name)]
		return lines[0].strip() if lines else "unknown"
	return {
		"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
		"mode": "quick" if quick else "full",
		"load_before": round(os.getloadavg()[0], 2),
		"cpu": field("/proc/cpuinfo", "model name"),
		"cores": len(os.sched_getaffinity(0)),
		"kernel": platform.release(),
		"free_huge_pages": int(field("/proc/meminfo", "HugePages_Free")),
		"revision": git("describe", "--always", "--dirty", "--abbrev=12"),
	}


# Processes.  They are in sessions of their own, so that ctrl-C reaches them only
# through stop(), and get SIGTERM should this one be killed.

def start(b, command, core=None, **options):
	pinned = ["taskset", "-c", str(core)] if core is not None else []
	options.setdefault("env", b.env)
	process = subprocess.Popen(
		["setpriv", "--pdeathsig", "TERM", *pinned, *command], start_new_session=True,
		stdin=subprocess.DEVNULL, text=True, **options)
	b.running.append(process)
	return process


def stop(b, process):
	if process.poll() is None:
		process.terminate()
		try:
			process.wait(30)
		except subprocess.TimeoutExpired:
			process.kill()
			process.wait()
	if process in b.running:
		b.running.remove(process)


def json_of(b, command, timeout_s, core=None, good=(0,), **options):
	"""What the command prints, which has to be JSON."""
	name = os.path.basename(command[0])
	if not os.access(command[0], os.X_OK):
		raise Failed(f"{command[0]} is not there: run make")
	process = start(b, command, core, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
			**options)
	try:
		out, err = process.communicate(timeout=timeout_s)
	except subprocess.TimeoutExpired:
		raise Failed(f"{name}: no result after {timeout_s:g} s") from None
	finally:
		stop(b, process)
	why = (err.strip().splitlines() or ["no reason given"])[-1]
	if process.returncode not in good:
		raise Failed(f"{name}: exit status {process.returncode}: {why}")
	try:
		return json.loads(out)
	except ValueError:
		raise Failed(f"{name}: printed no JSON: {why}") from None


# The store.

def ask(path, command):
	"""The reply to an inline command, a string."""
	with socket.socket(socket.AF_UNIX) as s:
		s.settimeout(10)
		s.connect(path)
		s.sendall(command.encode() + b"\r\n")
		with s.makefile("rb") as reply:
			head = reply.readline().decode().strip()
			return reply.read(int(head[1:])).decode() if head[:1] == "$" else head


def counters(path):
	lines = ask(path, "INFO everything").splitlines()
	found = dict(line.split(":", 1) for line in lines if ":" in line)
	return {name: int(found.get(name, 0)) for name in
		("used_memory", "snf_memory_bytes", "snf_records", "snf_reads", "snf_groups")}


@contextlib.contextmanager
def server(b):
	"""A server; gives its socket's path."""
	path, log = f"{b.tmp}/store.sock", f"{b.tmp}/store.log"
	with open(log, "w"):
		pass
	process = start(b, ["redis-server", "--port", "0", "--unixsocket", path, "--dir", b.tmp,
			    "--save", "", "--logfile", log, "--loadmodule",
			    f"{BUILD}/snf_store.so"], b.store_core)
	end = time.monotonic() + 15
	try:
		while not answers(path):
			if process.poll() is not None or time.monotonic() > end:
				lines = open(log).read().splitlines()
				raise Failed("redis-server: " + (lines or ["does not start"])[-1])
			time.sleep(0.02)
		yield path
	finally:
		stop(b, process)


def answers(path):
	try:
		return ask(path, "PING") == "+PONG"
	except OSError:
		return False


# One measurement, and rounds of several.

def measure(b, seconds, remote=True, function="firewall", **gen):
	"""What snf-bench prints, and as "store" by how much the server's counters rose."""
	section, extra, side = FUNCTIONS[function]
	source = {"size": 64, "flows": FLOWS, "packets": LONG, **extra, **gen}
	path = f"{b.tmp}/bench.yaml"
	command = [f"{OUT}/snf-bench", path, str(seconds), str(b.nf_core)]
	command += [side] if side != "inside" else []
	with server(b) if remote else contextlib.nullcontext() as socket_path:
		url = f"valkey+unix://{socket_path}" if remote else "embedded:"
		spec = ",".join(f"{key}={value}" for key, value in source.items())
		with open(path, "w") as f:
			f.write(f'function: {function}\nstore: "{url}"\nports:\n'
				f'  inside: "gen:{spec}"\n  outside: "gen:"\n'
				f"{function}:\n  {section}\n")
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
