"""machine.py - what bench/run runs on: the conditions, huge pages, and processes on their
cores.

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
		running=[], shares=[], throughput={}, server_pid={},
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
