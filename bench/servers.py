"""servers.py - the servers that bench/run measures: redis-server with the module, alone,
with a replica or as a cluster, and memcached.

Each is a context: it is up inside and gone after, with its files.  They get the bench
that machine.opened() gives, and are pinned to its store core unless told otherwise.
"""
import contextlib
import os
import shutil
import socket
import time

from machine import BUILD, Failed, start, stop

START_S = 15


def free_port():
	"""Below those that the kernel gives to connections, and so that a cluster's bus, at
	10,000 more, has one."""
	for port in range(21000 + os.getpid() % 400 * 10, 30000):
		with contextlib.suppress(OSError), \
		     socket.socket() as s, socket.socket() as bus:
			s.bind(("127.0.0.1", port))
			bus.bind(("127.0.0.1", port + 10000))
			return port
	raise Failed("no free port")


def connected(address):
	"""To a path, or a port of this machine."""
	s = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
	s.settimeout(60)
	try:
		s.connect(address if isinstance(address, str) else ("127.0.0.1", address))
	except OSError:
		s.close()
		raise
	return s


def ask(address, command):
	"""The reply to an inline command, a string."""
	with connected(address) as s:
		s.sendall(command.encode() + b"\r\n")
		with s.makefile("rb") as reply:
			head = reply.readline().decode().strip()
			return reply.read(int(head[1:])).decode() if head[:1] == "$" else head


def info(address, section="everything"):
	lines = ask(address, f"INFO {section}").splitlines()
	return dict(line.split(":", 1) for line in lines if ":" in line)


def counters(address):
	found = info(address)
	return {name: int(found.get(name, 0)) for name in
		("used_memory", "snf_memory_bytes", "snf_records", "snf_reads", "snf_groups")}


def wait(what, seconds, process, log, ready):
	"""Until ready(); returns the seconds that it took."""
	began = time.monotonic()
	while True:
		with contextlib.suppress(OSError):
			if ready():
				return time.monotonic() - began
		if process.poll() is not None or time.monotonic() - began > seconds:
			lines = open(log).read().splitlines() if os.path.exists(log) else []
			raise Failed(f"{what}: " + (lines or ["does not start"])[-1])
		time.sleep(0.005)


@contextlib.contextmanager
def server(b, name="store", core=None, port=0, start_s=START_S, options=()):
	"""redis-server with the module.  Gives its socket's path; what it saves is in the
	folder of its name until the bench ends."""
	folder = f"{b.tmp}/{name}"
	path, log = f"{folder}.sock", f"{folder}.log"
	os.makedirs(folder, exist_ok=True)
	with open(log, "w"):
		pass
	process = start(b, ["redis-server", "--port", str(port), "--unixsocket", path, "--dir",
			    folder, "--save", "", "--logfile", log, "--loadmodule",
			    f"{BUILD}/snf_store.so", *map(str, options)],
			b.store_core if core is None else core)
	try:
		wait("redis-server", start_s, process, log, lambda: ask(path, "PING") == "+PONG")
		b.server_pid[path] = process.pid
		yield path
	finally:
		stop(b, process)
		with contextlib.suppress(FileNotFoundError):
			os.unlink(path)


@contextlib.contextmanager
def replica(b, primary_port, core, start_s=START_S):
	"""A replica of the server at a port.  Gives its path and how long it took from being
	told to being in step."""
	with server(b, "replica", core) as path:
		began = time.monotonic()
		ask(path, f"REPLICAOF 127.0.0.1 {primary_port}")
		while info(path, "replication").get("master_link_status") != "up":
			if time.monotonic() - began > start_s:
				raise Failed("the replica does not come into step")
			time.sleep(0.005)
		yield path, time.monotonic() - began


@contextlib.contextmanager
def memcached(b, port=0):
	"""On one thread, at a path or a port; with memory for all that it is given, and no
	limit to what it answers at a time."""
	if shutil.which("memcached") is None:
		raise Failed("memcached is not there: run scripts/deps")
	path, log = f"{b.tmp}/memcached.sock", f"{b.tmp}/memcached.log"
	where = ["-l", "127.0.0.1", "-p", str(port)] if port else ["-s", path]
	with open(log, "w") as errors:
		process = start(b, ["memcached", "-t", "1", "-m", "1024", "-R", "1000", "-U", "0",
				    "-u", "root", *where], b.store_core, stderr=errors)
	address = port or path
	try:
		wait("memcached", START_S, process, log,
		     lambda: ask(address, "version").startswith("VERSION"))
		yield f"127.0.0.1:{port}" if port else path
	finally:
		stop(b, process)
		with contextlib.suppress(FileNotFoundError):
			os.unlink(path)


def slot_of(path, partition):
	return int(ask(path, f"CLUSTER KEYSLOT snf:{{snf:{partition}}}")[1:])


@contextlib.contextmanager
def cluster(b, n):
	"""A cluster of n servers, all on the store core, with the partition of its number on
	each.  Gives the first one's port and the servers' process ids."""
	with contextlib.ExitStack() as stack:
		ports, paths = [], []
		for i in range(n):
			ports.append(free_port())
			paths.append(stack.enter_context(server(
				b, f"shard{i}", port=ports[-1], options=(
					"--cluster-enabled", "yes",
					"--cluster-require-full-coverage", "no"))))
		for i, path in enumerate(paths):
			ask(path, f"CLUSTER SET-CONFIG-EPOCH {i + 1}")
			ask(path, f"CLUSTER ADDSLOTS {slot_of(path, i)}")
			ask(paths[0], f"CLUSTER MEET 127.0.0.1 {ports[i]}")
		end = time.monotonic() + 2 * START_S
		while any(found.get("cluster_state") != "ok" or
			  found.get("cluster_slots_assigned") != str(n)
			  for found in (dict(line.split(":", 1) for line in
					     ask(path, "CLUSTER INFO").splitlines())
					for path in paths)):
			if time.monotonic() > end:
				raise Failed(f"a cluster of {n} does not come together")
			time.sleep(0.05)
		yield ports[0], [b.server_pid[path] for path in paths]
