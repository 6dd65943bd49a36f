"""lab.py - hosts, links, switches and stores for the system tests and the demo.

A Lab is a small network on this machine: namespaces joined by veths, with real
programs in them.  Nothing of it can outlive its owner, and the kernel sees to that:

  - every process of a lab lives in one PID namespace.  When its init dies, the kernel
    kills the rest, however it was started and whatever it forked;
  - the init reads a pipe whose other end only the owner holds.  The owner's end, by
    whatever signal, closes the pipe and with it the lab;
  - namespaces are named in a /run of the lab's own, files that nobody outside has to
    see live in a tmpfs of its own: both vanish with the last process, and so do all
    links, taps and mounts;
  - what is left is one folder in /tmp.  The init's parent, whom no ctrl-C reaches,
    removes it.  A later lab sweeps it if even that was killed.

So `ip netns` elsewhere shows nothing; Lab.enter() has the words to look inside.

    with Lab() as lab:
        lab.host("client", "10.0.0.1/24", "fd00::1/64")
        lab.host("server", "10.0.0.2/24", "fd00::2/64")
        store = lab.redis()
        fw = lab.snf(config, "fw", links={"in0": "client:eth0", "out0": "server:eth0"})
        lab.run("ping", "-c1", "10.0.0.2", netns="client")

Where a place is asked for, "host:device" names a device to be made in that namespace.
"""
import ctypes
import functools
import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("SNF_BUILD", os.path.join(REPO, "build")))
TMP = "/tmp"  # Short: a unix socket's path has room for 107 bytes.
os.environ["PATH"] += ":/usr/sbin:/sbin"  # Where the tools are, also after a plain su.
CLONE_NEWNET = 0x40000000
SYS_PIDFD_GETFD = 438  # On every architecture.
SO_RCVBUFFORCE = 33
NICE = ["nice", "-n", "-20"]  # For a switch: else a machine of its own.

# In the new namespaces.  The old /proc has its pid as the owner sees it.
INIT = """
read outer rest </proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=755 snf /run
mkdir /run/netns "$1/ram"
mount -t tmpfs snf "$1/ram"
ip link set lo up
echo $outer
exec cat >/dev/null
"""
WATCHDOG = """
unshare --pid --mount --net --fork --kill-child --propagation private \
        sh -ec "$2" init "$1"
rm -rf "$1"
"""

# A program in a network namespace of its own waits for its links.  It then holds a fifo,
# and when it is dead the reader pulls the plugs.  Its devices go with its namespace
# anyway, but that waits for several RCU grace periods, 40 ms and more, where a cable
# would be noticed at once.  A dying process gives up its newest file first, hence the
# high number: its packet sockets wait for grace periods as well.
GATE = 'read go && exec "$@" </dev/null 1000>"$0"'
PLUG = '{ read x <"$0"; printf "$1"; } | exec ip -force -batch -'


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP, unwinding the stack as ctrl-C does."""

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.number = number


def wait_for(predicate, deadline_s, what, every_s=0.005):
    """Polls until 'predicate' returns something true, and returns that."""
    end = time.monotonic() + deadline_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline_s} s")
        time.sleep(every_s)


@functools.cache
def missing_rights():
    """Why a lab can't be made here, or None."""
    if os.geteuid() != 0:
        return "needs root: network namespaces and packet sockets"
    for tool in ("ip", "ethtool", "nft", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"needs {tool}: run scripts/deps"
    trial = subprocess.run(["unshare", "--pid", "--mount", "--net", "--fork", "true"],
                           capture_output=True, text=True)
    return f"no namespaces here: {trial.stderr.strip()}" if trial.returncode else None


def sweep():
    """Removes what runs left whose watchdog was killed as well."""
    for path in glob.glob(f"{TMP}/snf[0-9]*-*"):
        owner = re.fullmatch(r"snf(\d+)-\d+", os.path.basename(path))
        if owner and not os.path.exists(f"/proc/{owner[1]}"):
            shutil.rmtree(path, ignore_errors=True)


def leftovers(owner=None):
    """What is there of the labs of process 'owner': it should be nothing."""
    prefix = f"snf{owner or os.getpid()}-"
    found = glob.glob(f"{TMP}/{prefix}*") + glob.glob(f"/run/netns/{prefix}*")
    with open("/proc/self/mounts") as mounts:
        found += [line.split()[1] for line in mounts if prefix in line]
    for path in glob.glob("/proc/[0-9]*"):
        try:
            with open(f"{path}/environ", "rb") as e, open(f"{path}/cmdline", "rb") as c:
                words = e.read().split(b"\0") + [b"SNF_LAB=" + c.read()]
        except OSError:
            continue  # It ended while we looked.
        # Some programs write their title over their environment.
        if any(w.startswith(b"SNF_LAB=") and prefix.encode() in w for w in words):
            found.append(path)
    return found


class Process:
    """A program in the lab.  'pid' is that of the program, as seen from outside."""

    def __init__(self, name, popen, log_path, log_start):
        self.name, self.popen = name, popen
        self.log_path, self.log_start = log_path, log_start
        self._pid = None

    @property
    def pid(self):
        # nsenter forks to get into the PID namespace and then waits for its child.
        if self._pid is None:
            wait_for(lambda: _child(self.popen.pid) or not self.alive, 10,
                     f"start of {self.name}")
            self._pid = _child(self.popen.pid)
        if not self._pid:
            raise RuntimeError(f"{self.name} ended at once:\n{self.log()}")
        return self._pid

    @property
    def alive(self):
        return self.popen.poll() is None

    def command(self):
        with open(f"/proc/{self.pid}/comm") as comm:
            return comm.read().strip()

    def log(self):
        """What it has said; not what an earlier one of its name said."""
        with open(self.log_path, "rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="replace")

    def kill(self, number=signal.SIGKILL):
        if self.alive:  # Else its pid may be someone else's by now.
            os.kill(self.pid, number)

    def wait(self, timeout=10):
        """The exit status; that of a program which a signal ended is negative."""
        return self.popen.wait(timeout)

    def stop(self, timeout=10):
        """Asks it to end, and returns its exit status."""
        self.kill(signal.SIGTERM)
        return self.wait(timeout)

    def wait_log(self, text, deadline_s=10):
        """Waits until 'text' is in the log; that the program ends is an error."""
        def seen():
            if text in self.log():
                return True
            if not self.alive:
                raise RuntimeError(f"{self.name}: {self.popen.returncode}\n{self.log()}")
            return False
        try:
            wait_for(seen, deadline_s, f"'{text}' from {self.name}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log()}") from None


def _child(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            return int((children.read().split() or [0])[0])
    except OSError:
        return 0


class Lab:
    _made = 0

    def __init__(self):
        Lab._made += 1
        self.id = f"snf{os.getpid()}-{Lab._made}"
        self.dir = f"{TMP}/{self.id}"
        self.ram = f"{self.dir}/ram"  # In memory; only processes of the lab see it.
        self.init = self.root = None
        self._watchdog = None
        self.processes = []
        self.env = {}  # Of processes that are started from now on.
        self._addresses = {}  # Of hosts that have no link yet.
        self._signals = {}

    def __enter__(self):
        sweep()
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc):
        self.close()

    def _open(self):
        if threading.current_thread() is threading.main_thread():
            def stop(number, _frame):
                raise Stopped(number)
            self._signals[signal.SIGINT] = signal.getsignal(signal.SIGINT)
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._signals[number] = signal.signal(number, stop)
        os.mkdir(self.dir, 0o700)
        self._watchdog = subprocess.Popen(
                ["sh", "-c", WATCHDOG, "snf-lab", self.dir, INIT], env=self._env(),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True)
        pid = self._watchdog.stdout.readline()
        if not pid:
            why = self._watchdog.stderr.read().decode()
            raise RuntimeError(f"cannot make namespaces: {why.strip()}")
        self.init = int(pid)
        # How a path of the lab's own (below /run or 'ram') is reached from outside.
        self.root = f"/proc/{self.init}/root"

    def close(self):
        """Ends all of it.  Returns when nothing is left."""
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)  # It is a matter of 0.2 s.
        if self._watchdog is not None:
            self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog.stdout.close()
            self._watchdog.stderr.close()
            self._watchdog = None
            for process in self.processes:
                process.popen.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
        for number, handler in self._signals.items():
            signal.signal(number, handler)
        self._signals = {}

    def _env(self, **more):
        return {**os.environ, "SNF_LAB": self.id, "OVS_RUNDIR": f"{self.dir}/ovs",
                "LC_ALL": "C.UTF-8", **self.env, **more}

    def enter(self, netns=None):
        """The words to put before a command that is to run in the lab: in the host
        'netns', or in the network namespace of that process, or in none of them."""
        return ["nsenter", "-t", str(self.init), "-m", "-p", f"--net={self._net(netns)}",
                "--"]

    def _net(self, netns):
        if netns is None:
            return f"/proc/{self.init}/ns/net"
        if isinstance(netns, Process):
            return f"/proc/{netns.pid}/ns/net"
        return f"{self.root}/run/netns/{self.id}-{netns}"

    def run(self, *argv, netns=None, stdin="", check=True, timeout=60):
        """Runs a command to its end and returns what it printed."""
        done = self.run_raw(*argv, netns=netns, stdin=stdin, timeout=timeout)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}\n"
                               f"{stdin}{done.stdout}{done.stderr}")
        return done.stdout

    def run_raw(self, *argv, netns=None, stdin="", timeout=60):
        """The same, as a subprocess.CompletedProcess."""
        return subprocess.run([*self.enter(netns), *argv], input=stdin, text=True,
                              capture_output=True, timeout=timeout, env=self._env(),
                              start_new_session=True)

    def start(self, name, argv, netns=None, links=None, env=None):
        """Starts a program that stays.  Its output goes to a log file.

        With 'links' it gets a network namespace that only it holds and that goes with
        it.  They are {its device: "host:device"}; the program starts when they are up,
        and its death, however it comes, takes them down."""
        log_path, life = f"{self.dir}/{name}.log", f"{self.dir}/{name}.life"
        gate = ["unshare", "--net", "--", "bash", "-c", GATE, life] if links else []
        with open(log_path, "ab") as log:
            log_start = log.tell()
            popen = subprocess.Popen(
                    [*self.enter(netns), *gate, *argv], stdout=log, stderr=log,
                    stdin=subprocess.PIPE if gate else subprocess.DEVNULL,
                    env=self._env(**(env or {})), start_new_session=True)
            process = Process(name, popen, log_path, log_start)
        self.processes.append(process)
        if links:
            self._connect(process, links, life)
        return process

    def _connect(self, process, links, life):
        # Until the shell waits it may still be in the lab's own namespace.
        wait_for(lambda: process.command() == "bash", 10, f"start of {process.name}")
        self._quiet(process)
        if not os.path.exists(life):
            os.mkfifo(life)
        plugs = {}
        for device, other in links.items():
            self.link((process, device), other)
            host, peer = other.split(":")
            plugs[host] = plugs.get(host, "") + f"link set dev {peer} down\n"
        for host, words in plugs.items():
            plug = [*NICE, "sh", "-c", PLUG, life, words]
            self.start(f"{process.name}-plug", plug, host)
        process.popen.stdin.write(b"\n")
        process.popen.stdin.close()

    def inside(self, netns, function):
        """Calls function() with this process's thread in a namespace, and returns
        what it returns.  Sockets and files under /proc/net stay there."""
        libc = ctypes.CDLL(None, use_errno=True)
        result = []
        def call():
            try:
                with open(self._net(netns)) as namespace:
                    if libc.setns(namespace.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), f"setns {namespace.name}")
                result.append(function())
            except BaseException as error:
                result.append(error)
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def host(self, name, *addresses):
        """A host.  Its first link gets its addresses."""
        self.ip("netns", "add", f"{self.id}-{name}")
        self.run("sh", "-c", "cd /proc/sys/net/ipv6/conf && ip link set lo up &&"
                 " echo 0 >default/accept_dad && echo 0 >default/accept_ra &&"
                 " echo 0 >default/router_solicitations", netns=name)
        self._addresses[name] = list(addresses)
        return name

    def ip(self, *argv, netns=None):
        return self.run("ip", *map(str, argv), netns=netns)

    def _quiet(self, netns):
        """A namespace whose own stack says nothing: it only hands frames on."""
        self.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; "
                 "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up",
                 netns=netns)

    def link(self, one, other, mtu=1500):
        """A veth between two places, "host:device" each."""
        ends = [end if isinstance(end, tuple) else tuple(end.split(":"))
                for end in (one, other)]
        (a, a_dev), (b, b_dev) = [(self._ip_netns(ns), dev) for ns, dev in ends]
        self.ip("link", "add", a_dev, "mtu", mtu, "netns", a, "type", "veth",
                "peer", "name", b_dev, "mtu", mtu, "netns", b)
        for netns, device in ends:
            # A veth hands over unfinished checksums and 64 KiB segments otherwise.
            commands = [f"ethtool -K {device} tx off rx off tso off gso off gro off",
                        f"ip link set {device} up"]
            if not isinstance(netns, Process):
                commands += [f"ip addr add {address} dev {device}" +
                             (" nodad" if ":" in address else "")
                             for address in self._addresses.pop(netns, [])]
            self.run("sh", "-ec", "\n".join(commands), netns=netns)

    def _ip_netns(self, netns):
        """What the ip of the lab calls it: by name, or by the pid as seen inside."""
        if not isinstance(netns, Process):
            return f"{self.id}-{netns}"
        with open(f"/proc/{netns.pid}/status") as status:
            return re.search(r"NSpid:.*\s(\d+)\n", status.read())[1]

    def counters(self, netns):
        """A function that returns {device: (packets received, packets sent, bytes
        received, bytes sent)} of a namespace, now.  Starts no process."""
        file = self.inside(netns, lambda: open("/proc/thread-self/net/dev"))
        def read():
            file.seek(0)
            fields = [line.replace(":", " ").split() for line in file.readlines()[2:]]
            return {f[0]: (int(f[2]), int(f[10]), int(f[1]), int(f[9])) for f in fields}
        return read

    def snf(self, config, name="snf", netns=None, links=None, deadline_s=30):
        """An instance, ready.  'netns' or 'links' as for start()."""
        path = f"{self.dir}/{name}.yaml"
        with open(path, "w") as file:
            file.write(config)
        process = self.start(name, [f"{BUILD}/snf", "run", path], netns, links)
        process.wait_log("ready", deadline_s)
        return process

    def redis(self, name="redis", module=True, save="", netns=None, server="redis-server",
              options=()):
        """A store on a unix socket, answering.  'options' are further arguments."""
        return Redis(self, name, module, save, netns, server, options)

    def nginx(self, host, root, more="", port=80):
        """A web server of the files in 'root', listening.  'more' is for its file."""
        home = f"{self.dir}/nginx-{host}"
        os.mkdir(home)
        temp = "".join(f"{kind}_temp_path {home}/{kind};\n" for kind in
                       ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        with open(f"{home}/nginx.conf", "w") as file:
            file.write(f"daemon off; user root; worker_processes 1; pid {home}/pid;\n"
                       f"events {{ worker_connections 4096; }}\n"
                       f"http {{ access_log off; sendfile on; {temp} server {{\n"
                       f"listen {port}; listen [::]:{port}; root {root}; {more} }} }}\n")
        process = self.start(f"nginx-{host}", ["nginx", "-e", f"{home}/error.log",
                                               "-c", f"{home}/nginx.conf"], host)
        def listens():
            if not process.alive:
                raise RuntimeError(f"nginx: {process.log()}")
            return f":{port} " in self.run("ss", "-Hltn", netns=host)
        wait_for(listens, 10, f"nginx on {host}")
        return process

    def switch(self, name="switch"):
        return Switch(self, name)

    def spray(self, name="spray"):
        return Spray(self, name)


class Redis:
    """A store that can be killed and started again with what it saved."""

    def __init__(self, lab, name, module, save, netns, server, options):
        self.lab, self.name, self.netns = lab, name, netns
        self.home = f"{lab.dir}/{name}"
        self.socket = f"{self.home}/sock"
        self.url = f"valkey+unix://{self.socket}"
        os.mkdir(self.home)
        self.argv = [server, "--port", "0", "--unixsocket", self.socket,
                     "--dir", self.home, "--save", save, "--daemonize", "no"]
        if module:
            self.argv += ["--loadmodule", f"{BUILD}/snf_store.so"]
        self.argv += options
        self.start()

    def start(self):
        self.process = self.lab.start(self.name, self.argv, self.netns)
        wait_for(self._answers, 30, f"answer of {self.name}")

    def _answers(self):
        if not self.process.alive:
            raise RuntimeError(f"{self.name} ended:\n{self.process.log()}")
        try:
            return self.cli("PING") == "+PONG"  # Not while it is loading.
        except OSError:
            return False

    def cli(self, *words):
        """The first line of the answer to an inline command."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(self.socket)
            client.sendall(" ".join(words).encode() + b"\r\n")
            return client.makefile().readline().rstrip("\r\n")

    def kill(self, number=signal.SIGKILL):
        self.process.kill(number)
        self.process.wait()


class Switch:
    """Open vSwitch with its userspace datapath, in a namespace of its own."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.home = f"{lab.dir}/ovs"
        self.ports = {}  # Device to OpenFlow port number.
        os.mkdir(self.home)
        lab.ip("netns", "add", f"{lab.id}-{name}")
        lab._quiet(name)
        lab.run("ovsdb-tool", "create", f"{self.home}/conf.db",
                "/usr/share/openvswitch/vswitch.ovsschema")
        self.db = f"unix:{self.home}/db"
        self._daemon("ovsdb-server", f"{self.home}/conf.db", f"--remote=p{self.db}")
        wait_for(lambda: os.path.exists(f"{self.home}/db"), 10, "ovsdb-server")
        self.vsctl("--no-wait", "init")
        self.process = self._daemon("ovs-vswitchd", self.db)
        self.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev",
                   "fail_mode=secure", "protocols=OpenFlow13,OpenFlow15",
                   "other-config:disable-in-band=true")

    def _daemon(self, program, *words):
        return self.lab.start(program, [
            *NICE, program, *words, f"--unixctl={self.home}/{program}.ctl",
            "-vconsole:off", f"--log-file={self.home}/{program}.log"], self.name)

    def vsctl(self, *words):
        return self.lab.run("ovs-vsctl", f"--db={self.db}", *words, netns=self.name)

    def ofctl(self, *words, stdin=""):
        command, *rest = words
        return self.lab.run("ovs-ofctl", "-O", "OpenFlow15", command,
                            f"unix:{self.home}/br0.mgmt", *rest, netns=self.name,
                            stdin=stdin)

    def appctl(self, *words):
        return self.lab.run("ovs-appctl", "-t", f"{self.home}/ovs-vswitchd.ctl", *words,
                            netns=self.name)

    def add_ports(self, *devices):
        words = []
        for device in devices:
            self.ports[device] = len(self.ports) + 1
            words += ["--", "add-port", "br0", device, "--", "set", "interface", device,
                      f"ofport_request={self.ports[device]}"]
        self.vsctl(*words)
        self._deepen_queues()

    def _deepen_queues(self):
        """The datapath is one thread, and its sockets hold 90 full frames unless the
        whole machine's default is changed: a burst loses packets that no instance
        ever saw.  So the sockets are borrowed and given room."""
        libc = ctypes.CDLL(None, use_errno=True)
        pidfd = os.pidfd_open(self.process.pid)
        for fd in map(int, os.listdir(f"/proc/{self.process.pid}/fd")):
            own = libc.syscall(SYS_PIDFD_GETFD, pidfd, fd, 0)
            if own < 0:
                continue
            try:
                with socket.socket(fileno=own) as s:
                    if s.family == socket.AF_PACKET:
                        s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
            except OSError:
                os.close(own)  # Not a socket.
        os.close(pidfd)

    def select_group(self, number, devices, fields, param=0):
        """A group that spreads flows over 'devices' by a hash of 'fields', and over
        those whose link is up only.  Two groups with the same 'param' choose alike
        when the values of their fields are the same, even if the fields are not."""
        buckets = ",".join(f"bucket=bucket_id:{i},watch_port:{self.ports[device]},"
                           f"actions=output:{self.ports[device]}"
                           for i, device in enumerate(devices))
        self.ofctl("add-group", f"group_id={number},type=select,selection_method=hash,"
                   f"selection_method_param={param},fields({fields}),{buckets}")

    def add_flows(self, *flows):
        """Flows as for ovs-ofctl; {device} stands for its port number."""
        self.ofctl("add-flows", "-", stdin="\n".join(flows).format(**self.ports) + "\n")


class Spray:
    """Hands every packet to the next instance in turn, in both directions; what comes
    back from an instance leaves by the other side.  Devices of its namespace: "inside"
    and "outside" lead to the hosts, "NAME_in" and "NAME_out" to instance NAME."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        lab.ip("netns", "add", f"{lab.id}-{name}")
        lab._quiet(name)

    def links(self, instance):
        """For Lab.snf(links=...), with the ports in0 and out0."""
        return {f"{side}0": f"{self.name}:{instance}_{side}" for side in ("in", "out")}

    def use(self, *instances):
        """From now on these, and no packet is lost by it: the one rule of a host's side
        is replaced.  Again after one started anew: nftables knows devices by index."""
        def ingress(device):
            return (f"table netdev spray {{ chain from_{device} {{ type filter hook"
                    f" ingress device {device} priority 0; }}\n}}\n"
                    f"flush chain netdev spray from_{device}\n"
                    f"add rule netdev spray from_{device} fwd to ")
        back = there = ""
        for host, side in (("inside", "in"), ("outside", "out")):
            back += "".join(ingress(f"{name}_{side}") + f"{host}\n" for name in instances)
            turns = ", ".join(f"{i} : {name}_{side}" for i, name in enumerate(instances))
            there += (ingress(host) +
                      f"numgen inc mod {len(instances)} map {{ {turns} }}\n")
        for rules in (back, there):
            self.lab.run("nft", "-f", "-", netns=self.name, stdin=rules)
