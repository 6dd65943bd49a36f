"""test_badinput.py - what is wrong is said in one line that helps, before anything starts.

A mistake in a file: "FILE:LINE: what is wrong, what would be right", exit 2.  A port, a
right, a huge page or a store that is not there: one line of level error, exit 1, within
the store's timeout.
"""
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest

from lab import BUILD, Lab, missing_rights
from store_client import die_with_parent

SNF = os.path.join(BUILD, "snf")
START_S = 10    # More than a start ever takes, on a machine with other things to do.
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
          "--inh-caps=-all", "--bounding-set=-all"]

pytestmark = pytest.mark.skipif(not os.path.exists(SNF), reason=SNF + " is not built")


@pytest.fixture
def snf(tmp_path, tmp_path_factory):
    """Runs `snf` in a folder of its own, to its end; it leaves nothing behind."""
    runtime = tmp_path_factory.mktemp("run")

    def run(*words, timeout=START_S):
        done = subprocess.run([SNF, *words], cwd=tmp_path, text=True, timeout=timeout,
                              capture_output=True, preexec_fn=die_with_parent,
                              env={**os.environ, "RUNTIME_DIRECTORY": str(runtime),
                                   "LC_ALL": "C"})
        assert list(runtime.glob("dpdk/snf-*")) == []
        return done
    return run


def config(store="embedded:", inside="pcap:,in.pcap", outside="pcap:,out.pcap", more="",
           function="firewall"):
    """A right one, five lines long; 'more' begins on the sixth."""
    return (f'function: {function}\nstore: "{store}"\nports:\n  inside: "{inside}"\n'
            f'  outside: "{outside}"\n{more}')


# --- The command line ------------------------------------------------------------------

def test_help_names_commands_and_functions(snf):
    for word in ("--help", "-h"):
        done = snf(word)
        assert done.returncode == 0 and done.stderr == ""
        for name in ("snf run FILE", "snf check FILE", "firewall", "nat", "lb", "reassembly",
                     "ips"):
            assert name in done.stdout


def test_version_is_a_name_and_a_number(snf):
    done = snf("--version")
    assert done.returncode == 0 and done.stderr == ""
    assert re.fullmatch(r"snf \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("words", [(), ("walk", "file"), ("run",), ("run", "a", "b"),
                                   ("check",), ("--nonsense",)])
def test_a_wrong_command_line_is_answered_with_the_usage_and_2(snf, words):
    done = snf(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("usage: snf")


# --- The file --------------------------------------------------------------------------

RULE = "firewall:\n  rules:\n    - "

MISTAKES = [
    # name, file, line, what has to be said there
    ("an empty file misses what is required", "", 1, "missing key 'function'"),
    ("a missing port is missed", config().replace("  outside", "  #"), 3,
     "missing key 'ports.outside'"),
    ("an unknown function is answered with all there are", config(function="firewal"), 1,
     "no function 'firewal', want one of: firewall, nat, lb, reassembly, ips"),
    ("a function twice in a chain", config(function="[firewall, firewall]"), 1, "firewall"),
    ("an unknown key is answered with the nearest", config(more="stor: 1"), 6,
     "unknown key 'stor', did you mean 'store'?"),
    ("a key of another function's options", config(more="firewall:\n  backends: []"), 7,
     "unknown key 'firewall.backends'"),
    ("a key that stands twice", config(more='store: "embedded:"'), 6,
     "'store' stands twice, first on line 2"),
    ("a second document", config(more="---\na: 1"), 6, "a second document begins"),
    ("an unquoted colon", config().replace('"embedded:"', "embedded:"), 2,
     "quote a value that has ': ' in it or ends with ':'"),
    ("a tab", config(more="firewall:\n\trules: []"), 7, "indent with spaces"),
    ("a bracket left open", config(more="firewall: {rules: [}"), 6, "not valid YAML"),
    ("a number out of range", config(more="pipes: {max: 9}"), 6, "'pipes.max' is 9, want 1 to 8"),
    ("bounds that contradict each other", config(more="pipes: {min: 3, max: 2}"), 6,
     "pipes.max is 2, want at least pipes.min, 3"),
    ("a word that is none of those", config(more="hugepages: never"), 6,
     "want one of: auto, required, off"),
    ("a time that is none", config(more="store_timeout: soon"), 6, "want a time such as 500ms"),
    ("a time out of range", config(more="store_timeout: 1ms"), 6, "want 10ms to 1m"),
    ("a scalar where a map belongs", config(more="firewall: 3"), 6, "want a map"),
    # The store.
    ("a store without a scheme", config("localhost"), 2, "use embedded:, valkey://HOST:PORT"),
    ("a store of another scheme", config("redis://h"), 2, "use embedded:, valkey://HOST:PORT"),
    ("a store of an unknown scheme", config("valkey+ring://h"), 2, "valkey+ring"),
    ("a store without a host", config("valkey://"), 2, "valkey://127.0.0.1:6379"),
    ("a store's port out of range", config("valkey://h:65536"), 2, "from 1 to 65535"),
    ("a store's socket by a relative path", config("valkey+unix://sock"), 2, "absolute path"),
    ("a store's user without password", config("valkey://me@h"), 2, "user:password@"),
    # The ports.
    ("a port of no kind", config(inside="eth0"), 4, "there are pci:, af_packet:"),
    ("a port of an unknown kind", config(outside="dpdk:eth0"), 5, "there are pci:, af_packet:"),
    ("an interface without a name", config(inside="af_packet:"), 4, "as af_packet:eth0"),
    ("an interface with a name too long", config(inside="af_packet:" + 16 * "x"), 4,
     "as af_packet:eth0"),
    ("a PCI address that is none", config(inside="pci:eth0"), 4, "like pci:0000:3b:02.1"),
    ("a tap with a name too long", config(inside="tap:" + 16 * "x"), 4, "as tap:snf0"),
    ("a capture that is read and written", config(inside="pcap:a,a"), 4,
     "would overwrite what it reads"),
    ("a capture from standard input", config(outside="pcap:-,b"), 5, "mkfifo"),
    ("an unknown option of the source", config(inside="gen:sizes=64"), 4,
     "there are size, flows"),
    ("a frame too small", config(inside="gen:size=12"), 4, "a number from 64 to 1518"),
    # The functions' own sections.
    ("a rule without an action", config(more=RULE + "direction: out"), 8,
     "missing key 'firewall.rules[0].action'"),
    ("a rule with another action", config(more=RULE + "action: permit"), 8,
     "want one of: allow, deny"),
    ("a prefix too long", config(more=RULE + "{action: allow, source: 10.0.0.0/33}"), 8,
     "want a prefix without host bits, such as 10.0.0.0/8"),
    ("ports without a protocol", config(more=RULE + "{action: deny, source_ports: 80}"), 8,
     "needs 'protocol: tcp'"),
    ("ports in the wrong order",
     config(more=RULE + "action: deny\n      protocol: tcp\n      destination_ports: 9-1"), 10,
     "want ports, such as 80 or 1024-65535"),
    ("an idle time of nothing", config(more="firewall:\n  timeouts: {udp: 0s}"), 7,
     "want 1s to 30d"),
    ("a NAT without addresses", config(function="nat"), 1, "missing key 'nat.addresses'"),
    ("a rule that matches nothing", config(more="firewall:\n  rules:\n    - action: allow\n"
                                           "      source: 10.0.0.0/8\n"
                                           "      destination: '2001:db8::/32'"),
     8, "are of different IP versions"),
    ("an address of the other version", config(function="nat", more="nat:\n  addresses: ['::1']"),
     7, "want IPv4"),
    ("a load balancer without backends",
     config(function="lb", more='lb:\n  address: "10.0.0.1:80"\n  backends: []'), 8,
     "want a list of length 1 to"),
    ("a backend of the other version",
     config(function="lb", more='lb:\n  address: "10.0.0.1:80"\n  backends:\n'
            '    - "10.0.0.2:80"\n    - "[::1]:80"'), 10,
     "of the IP version of 'address'"),
    ("a signature that is not what it should be",
     config(function="ips", more="ips:\n  signatures:\n"
            "    - {id: 1, action: alert, content: '|4'}"), 8, "|hexadecimal|"),
]


@pytest.mark.parametrize("name,text,line,says", MISTAKES, ids=[case[0] for case in MISTAKES])
def test_a_mistake_is_named_with_its_line_and_nothing_starts(snf, tmp_path, name, text, line,
                                                             says):
    (tmp_path / "snf.yaml").write_text(text)
    checked, run = snf("check", "snf.yaml"), snf("run", "snf.yaml")
    for done in (checked, run):
        assert done.returncode == 2 and done.stdout == ""
        first, *others = done.stderr.splitlines()
        assert first.startswith(f"snf.yaml:{line}: ") and says in first, done.stderr
        assert all(re.match(r"snf.yaml:\d+: ", other) for other in others), done.stderr
    # Not even its outputs were made, nor DPDK's lines written.
    assert os.listdir(tmp_path) == ["snf.yaml"]


def test_all_mistakes_of_a_file_are_named_at_once(snf, tmp_path):
    (tmp_path / "snf.yaml").write_text(config(more="stor: 1\npipes: {max: 99}\nlog: loud\n"))
    lines = snf("run", "snf.yaml").stderr.splitlines()
    assert [line.split(":")[1] for line in lines] == ["6", "7", "8"]


@pytest.mark.parametrize("path,says", [("none.yaml", "No such file or directory"),
                                       ("/tmp", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(snf, path, says):
    for command in ("check", "run"):
        done = snf(command, path)
        assert done.returncode == 2 and done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith(path + ": ") and says in done.stderr


def test_check_of_a_right_file_says_so_and_opens_nothing(snf, tmp_path):
    # Neither the interface nor the store is there.
    (tmp_path / "snf.yaml").write_text(config("valkey://192.0.2.1:1", "af_packet:nowhere"))
    done = snf("check", "snf.yaml")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == "snf.yaml: ok: firewall, store valkey://192.0.2.1:1\n"


# --- What is not there -----------------------------------------------------------------

def fails(done, *says):
    """Exit 1 with one line of level error, nothing worse than info beside it."""
    errors = [line for line in done.stderr.splitlines() if not line.startswith("info ")]
    assert done.returncode == 1 and done.stdout == "", done.stderr
    assert len(errors) == 1 and errors[0].startswith("error snf: "), done.stderr
    for text in says:
        assert text in errors[0]


def run_fails(snf, tmp_path, text, *says, timeout=START_S):
    (tmp_path / "snf.yaml").write_text(text)
    fails(snf("run", "snf.yaml", timeout=timeout), *says)


PORTS = [
    ("a kernel interface", config(inside="af_packet:nowhere"),
     "no interface 'nowhere'", "ip link shows"),
    ("an interface for AF_XDP", config(inside="af_xdp:nowhere"),
     "no interface 'nowhere'", "ip link shows"),
    ("a NIC", config(inside="pci:0000:ff:1f.7"), "pci:0000:ff:1f.7 cannot be opened"),
    ("shared memory in no folder", config(inside="memif:/nowhere/socket"),
     "memif:/nowhere/socket cannot be opened"),
    ("a device of no driver", config(inside="net_nosuch0"), "net_nosuch0 cannot be opened"),
    ("a capture", config(inside="pcap:nowhere.pcap,out.pcap"),
     "nowhere.pcap: No such file or directory"),
    ("a folder for a capture", config(outside="pcap:,nowhere/out.pcap"),
     "nowhere/out.pcap: No such file or directory"),
    ("a capture that is none", config(inside="pcap:snf.yaml,out.pcap"),
     "snf.yaml is not a capture"),
    ("a second queue of a capture", config(more="pipes: {max: 2}"), "set pipes: {max: 1}"),
    ("a folder for alerts", config(more="alerts: nowhere/alerts"),
     "nowhere/alerts: No such file or directory"),
]


@pytest.mark.parametrize("case", PORTS, ids=[case[0] for case in PORTS])
def test_a_port_that_is_not_there_is_named(snf, tmp_path, case):
    run_fails(snf, tmp_path, *case[1:])


def test_a_capture_that_is_cut_short_is_read_as_far_as_it_goes_and_fails(snf, tmp_path):
    head = struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1)
    arp = bytes(12) + b"\x08\x06" + bytes(46)
    record = struct.pack("<IIII", 1, 0, len(arp), len(arp)) + arp
    (tmp_path / "in.pcap").write_bytes(head + record + record[:30])
    (tmp_path / "snf.yaml").write_text(config(inside="pcap:in.pcap,"))
    done = snf("run", "snf.yaml")
    assert done.returncode == 1
    assert re.search("error port: in.pcap: .*reading stops here", done.stderr)
    assert (tmp_path / "out.pcap").stat().st_size == len(head) + len(record)


def test_huge_pages_that_are_required_and_missing_are_named_with_the_remedy(snf, tmp_path):
    # More than any machine has.
    run_fails(snf, tmp_path, config(more="hugepages: required\nmemory: 1048576"),
          "1048576 MB of huge pages are needed", "echo 524288 > /proc/sys/vm/nr_hugepages")


def test_huge_pages_that_are_missing_and_not_required_are_done_without(snf, tmp_path):
    (tmp_path / "snf.yaml").write_text(config(more="hugepages: off"))
    assert snf("run", "snf.yaml").returncode == 0


@pytest.mark.parametrize("port,says", [("af_packet:lo", "CAP_NET_RAW"),
                                       ("tap:snftest", "CAP_NET_ADMIN")])
def test_without_rights_it_says_which_are_needed(port, says):
    if os.geteuid() != 0:
        pytest.skip("needs root, to give it up")
    # Where others may read: the tree and pytest's folders need not be such a place.
    home = f"/tmp/snf-nobody-{os.getpid()}"
    os.mkdir(home)
    try:
        os.chmod(home, 0o777)
        shutil.copy(SNF, home)
        with open(home + "/snf.yaml", "w") as file:
            file.write(config(inside=port, more="memory: 128"))
        fails(subprocess.run([*NOBODY, "./snf", "run", "snf.yaml"], cwd=home, text=True,
                             capture_output=True, timeout=START_S, preexec_fn=die_with_parent,
                             env={**os.environ, "RUNTIME_DIRECTORY": home}), says)
    finally:
        shutil.rmtree(home)


# --- The store -------------------------------------------------------------------------

@pytest.fixture(scope="module")
def servers():
    """Redis servers: 'plain' without the module, 'locked' by a password, a 'replica'."""
    why = missing_rights()
    if why is not None:
        pytest.skip(why)
    with Lab() as lab:
        made = {"plain": lab.redis("plain", module=False), "store": lab.redis("store"),
                "locked": lab.redis("locked"),
                "replica": lab.redis("replica", options=("--replicaof", "127.0.0.1", "1"))}
        made["locked"].cli("CONFIG", "SET", "requirepass", "secret")
        yield made


# As long as these wait for, at the most; what cannot get better must not wait for it.
PATIENT = "store_timeout: 60s"
IMPATIENT = "store_timeout: 300ms"

REFUSALS = [
    # name, server, its URL, what makes it so, what is said
    ("a server without the module", "plain", "valkey+unix://{}", (), "--loadmodule"),
    ("a key that is in use", "store", "valkey+unix://{}?name=used", ("SET", "snf:{used:0}", "x"),
     "give another name in the URL"),
    ("a table of another release", "store", "valkey+unix://{}?name=other",
     ("SNF.OPEN", "snf:{other:0}", "2", "1", "firewall.connection", "1", "1", "1", "0", "0"),
     "another release uses this store: give it another name in the URL"),
    ("no password", "locked", "valkey+unix://{}", (), "it wants a password: set user:password@ in the URL"),
    ("a wrong password", "locked", "valkey+unix://:wrong@{}", (), "wrong password: set user:password@"),
    ("an unknown user", "locked", "valkey+unix://me:secret@{}", (), "wrong password: set user:password@"),
    ("a password too many", "store", "valkey+unix://:secret@{}", (), "take it out of the URL"),
]


@pytest.mark.parametrize("name,server,url,before,says", REFUSALS, ids=[r[0] for r in REFUSALS])
def test_a_store_that_refuses_ends_the_start_at_once(snf, tmp_path, servers, name, server, url,
                                                     before, says):
    if before:
        servers[server].cli(*before)
    url = url.format(servers[server].socket)
    run_fails(snf, tmp_path, config(url, more=PATIENT), "no store: ", says)


def test_a_replica_is_not_taken_for_the_store(snf, tmp_path, servers):
    # It may be promoted: so it is waited for.
    url = servers["replica"].url
    run_fails(snf, tmp_path, config(url, more=IMPATIENT), "the server is a replica, the primary is wanted")


def test_with_the_right_password_it_starts(snf, tmp_path, servers):
    url = f"valkey+unix://:secret@{servers['locked'].socket}"
    (tmp_path / "snf.yaml").write_text(config(url))
    assert snf("run", "snf.yaml").returncode == 0


@pytest.fixture
def fake():
    """Makes TCP servers that answer what they are told, and then wait."""
    made = []

    def make(answer):
        server = socket.create_server(("127.0.0.1", 0))
        made.append(server)

        def serve():
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return              # Closed: the test is over.
                made.append(client)
                if answer is not None and client.recv(65536):
                    client.sendall(answer)
        threading.Thread(target=serve, daemon=True).start()
        return "valkey://127.0.0.1:%d" % server.getsockname()[1]
    yield make
    for opened in made:
        try:
            opened.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass                        # The other end was faster.
        opened.close()


@pytest.mark.parametrize("answer,says", [
    (b"-ERR SNFPROTO this module speaks 7, not what it was asked for\r\n",
     "the module is of another release: load the snf_store.so of this one"),
    (b"-ERR unknown command 'SNF.OPEN', with args beginning with: 'snf'\r\n", "--loadmodule"),
    (b"-MOVED 1234 10.0.0.1:6379\r\n", "it is a Cluster"),
    (b"-NOPERM this user has no permissions to run the 'snf.open' command\r\n", "ACL SETUSER"),
    (b"-DENIED Redis is running in protected mode\r\nmany lines\r\n", "give it a password"),
], ids=["of another release", "without the module", "a cluster", "no permission", "protected"])
def test_an_answer_that_cannot_change_ends_the_start_at_once(snf, tmp_path, fake, answer, says):
    run_fails(snf, tmp_path, config(fake(answer), more=PATIENT), "no store: ", says)


@pytest.mark.parametrize("answer,says", [
    (None, "no answer from the server"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "this is no Redis or Valkey server"),
    (b"\xff\x00" * 100 + b"\r\n", "this is no Redis or Valkey server"),
    # As many numbers as for the firewall's tables, but for the last.
    (b"*11\r\n" + b":1\r\n" * 10 + b"+OK\r\n", "this is no Redis or Valkey server"),
    (b"-LOADING Redis is loading the dataset in memory\r\n", "the server is loading its data"),
], ids=["silence", "a web server", "noise", "a bad answer", "loading"])
def test_a_store_that_may_get_well_is_waited_for_as_long_as_told(snf, tmp_path, fake, answer,
                                                                 says):
    begin = time.monotonic()
    run_fails(snf, tmp_path, config(fake(answer), more=IMPATIENT), "no store: ", says)
    assert time.monotonic() - begin > 0.3


@pytest.mark.parametrize("url", ["valkey://127.0.0.1:1", "valkey://[::1]:1",
                                 "valkey+unix:///nowhere/socket"])
def test_a_store_that_is_not_there_is_named_with_the_question_whether_it_runs(snf, tmp_path, url):
    run_fails(snf, tmp_path, config(url, more=IMPATIENT), "cannot connect",
              "is a server running there?")


def test_a_store_on_an_unknown_host_is_named(snf, tmp_path):
    run_fails(snf, tmp_path, config("valkey://nowhere.invalid", more=IMPATIENT),
          "cannot find the host", timeout=60)
