"""test_store_peers.py - the client in C while its server is killed, stopped, replaced or
not there.  No root; TCP on 127.0.0.1.
"""
import os
import signal
import subprocess
import threading

import pytest

from store_client import (AOF, LOUD, PROBE, SERVER, TABLE, Partition, Server, caught_up,
                          die_with_parent, follow, needs_module, open_words, pair,
                          server, tcp_server, wait_until)

pytestmark = needs_module


# --- The client in C -------------------------------------------------------------------

@pytest.fixture
def probe():
    if not os.path.exists(PROBE):
        pytest.skip(PROBE + " is not built")
    running = []

    def run(server, writes, timeout_ms, name=""):
        url = server if isinstance(server, str) else "valkey+unix://" + server.path
        running.append(subprocess.Popen(
            [PROBE, url + name, str(writes), str(timeout_ms)], stdout=subprocess.PIPE,
            text=True, bufsize=1, preexec_fn=die_with_parent))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def lines_until_done(process, seconds=120):
    """The probe's lines; it is killed if the last one does not come in time."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            yield line.strip()
    finally:
        timer.cancel()
    assert process.wait() == 0


def numbers(done):
    assert done.startswith("done "), done
    return {k: int(v) for k, v in (word.split("=") for word in done.split()[1:])}


def test_counts_are_right_without_trouble(server, probe):
    *_, done = lines_until_done(probe(server, 20000, 5000))
    assert numbers(done)["unknown"] == 0


def test_over_tcp_with_a_user_of_few_rights(tcp_server, probe):
    client = tcp_server.client()
    client("ACL", "SETUSER", "nf", "on", ">p@ss", "~snf:*", "+snf.frame")
    url = "valkey://nf:p%%40ss@127.0.0.1:%d/edge" % tcp_server.port
    assert "may not" in failed_open(probe(url, 1, 5000))
    client("ACL", "SETUSER", "nf", "+snf.open")
    *_, done = lines_until_done(probe(url, 5000, 20000))
    assert numbers(done)["unknown"] == 0
    assert client("EXISTS", "snf:{edge:0}") == 1
    client("ACL", "SETUSER", "nf", ">other", "<p@ss")
    assert "wrong" in failed_open(probe(url, 1, 5000))


def test_kill_and_restart_have_no_second_effect(tmp_path, probe):
    with Server(tmp_path, *AOF) as server:
        process = probe(server, 6000, 20000)
        kills, last = 0, ""
        for last in lines_until_done(process):
            if last.isdigit() and kills < 6:
                kills += 1
                server.restart()
        counted = numbers(last)
    assert kills == 6 and counted["unknown"] == 0, counted


def test_a_server_that_stands_still_is_lost_and_found(server, probe):
    process = probe(server, 4000, 300)
    stops, last, seen = 0, "", []
    for last in lines_until_done(process):
        if last.isdigit() and stops < 4:
            stops += 1
            server.process.send_signal(signal.SIGSTOP)
        if last == "lost":
            server.process.send_signal(signal.SIGCONT)
        seen.append(last)
    assert stops == 4 and seen.count("lost") == seen.count("connected") == 4, seen
    assert numbers(last)["applied"] >= 4000


def test_connections_cut_at_random_have_no_second_effect(server, probe):
    process = probe(server, 60000, 20000)
    client = server.client()
    stop = threading.Event()

    cuts = []

    def cut():
        while not stop.is_set():
            before = client.count("groups")
            client("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            cuts.append(before)
            wait_until(lambda: stop.is_set() or client.count("groups") > before + 20)

    thread = threading.Thread(target=cut)
    last = ""
    for last in lines_until_done(process):
        if not thread.is_alive() and not stop.is_set():
            thread.start()
        if last.isdigit() and int(last) >= 50000:
            stop.set()
    stop.set()
    thread.join()
    assert numbers(last)["unknown"] == 0 and len(cuts) > 3, (last, len(cuts))


def test_a_failover_is_followed_by_the_address(pair, probe):
    """The address moves to the replica, as Sentinel's script or a service's name does."""
    one, two = pair
    replica = follow(two, one)
    first = one.client()
    process = probe(one, 4000, 20000)
    moved, last = False, ""
    for last in lines_until_done(process):
        if moved or not last.isdigit():
            continue
        moved = True
        first("CONFIG", "SET", "min-replicas-to-write", "1")
        first("CLIENT", "PAUSE", 60000, "WRITE")
        caught_up(first, replica)
        replica("REPLICAOF", "NO", "ONE")
        one.kill()
        if os.path.exists(one.path):
            os.unlink(one.path)
        os.symlink(two.path, one.path)
    os.unlink(one.path)
    assert moved and numbers(last)["unknown"] == 0
    assert two.client().count("records") == 64


def failed_open(process):
    text = process.stdout.read()
    assert process.wait() == 1
    return text


def test_what_is_wrong_is_said_in_a_line(tmp_path, server, probe):
    client = server.client()
    plain = tmp_path / "plain"
    plain.mkdir()
    path, process = str(plain / "socket"), None
    server.path, kept = path, server.path
    assert "is a server running" in failed_open(probe(server, 1, 300))
    process = subprocess.Popen([SERVER, "--port", "0", "--unixsocket", path,
                                "--dir", str(plain), "--save", ""],
                               stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        wait_until(server.answers)
        assert "module is not loaded" in failed_open(probe(server, 1, 5000))
    finally:
        process.kill()
        process.wait()
    server.path = kept
    client("SET", "snf:{taken:0}", "x")
    assert "another name" in failed_open(probe(server, 1, 5000, "?name=taken"))
    client("SNF.OPEN", "snf:{old:0}", *open_words(("probe.counter", 5, 8, 1)))
    assert "another release" in failed_open(probe(server, 1, 5000, "?name=old"))
    assert "name" in failed_open(probe(server, 1, 5000, "?nam=x"))
    client("CONFIG", "SET", "requirepass", "secret")
    assert "password" in failed_open(probe(server, 1, 5000))
    client("AUTH", "secret")
    client("CONFIG", "SET", "requirepass", "")


def test_tables_of_others_do_not_matter(server, probe):
    """The probe's table gets another id than its own index."""
    Partition(server.client(), "snf:{snf:0}", TABLE, LOUD)
    *_, done = lines_until_done(probe(server, 2000, 5000))
    assert numbers(done)["applied"] >= 2000


def test_a_lost_state_is_started_anew(server, probe):
    """Counters jump back: the probe must see a version that it never wrote."""
    client = server.client()
    process = probe(server, 1000000, 5000)
    process.stdout.readline()
    client("FLUSHALL")
    for line in process.stdout:
        if line.startswith("counter"):
            break
    else:
        pytest.fail("the loss was not seen")
    assert process.wait() == 1
    assert Partition(client, "snf:{snf:0}").generation
