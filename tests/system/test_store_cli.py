"""test_store_cli.py - `snf show store`, `snf show records`, `snf delete records`: what an
operator sees of a store, and what he may take out of it.  No root, no network.
"""
import json
import os
import signal
import socket
import struct
import subprocess
import threading

import pytest

from store_client import (LEASED, REPO, Partition, caught_up, follow,  # noqa: F401
                          needs_module, pair, put, server, settle, wait_until)

pytestmark = needs_module
SNF = os.path.join(os.environ.get("SNF_BUILD", os.path.join(REPO, "build")), "snf")
CONNECTION = ("firewall.connection", 40, 48, 2)
ESTABLISHED = 3  # In the order of the states in firewall.h.


def flow4(i, protocol=6):
    return struct.pack("<BBH", 4, protocol, 0) + struct.pack(">HH", 1000 + i, 80) + \
        bytes([10, 0, 0, 1, 192, 0, 2, i & 255])


def flow6(i):
    return struct.pack("<BBH", 6, 17, 0) + struct.pack(">HH", 53, 2000 + i) + \
        bytes.fromhex("20010db8000000000000000000000001") + \
        bytes.fromhex("20010db80000000000000000000000") + bytes([i])


def connection(state, rule=7):
    return struct.pack("<BBBB32xHBBII", state, 1, 0, 0, rule, 0, 0, 0, 0)


def put_connection(key, state, idle_ms=60000):
    return put(0, key, connection(state), idle_ms, CONNECTION[3])


def snf(*words):
    done = subprocess.run([SNF, *words], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def url(server):
    return f"valkey+unix://{server.path}"


@pytest.fixture
def part(server):
    return Partition(server.client(), "snf:{snf:0}", CONNECTION)


def records(server, *wanted):
    code, out, err = snf("show", "records", url(server), CONNECTION[0], *wanted, "--json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_the_store_is_shown_with_servers_tables_and_sizes(server, part):
    part.write(*(put_connection(flow4(i), ESTABLISHED) for i in range(20)))
    code, out, err = snf("show", "store", url(server), "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["partitions"] == 1
    assert shown["servers"][0]["role"] == "master"
    assert shown["servers"][0]["snf_records"] == "20"
    assert int(shown["servers"][0]["snf_memory_bytes"]) > 20 * 48
    table = shown["tables"][0]
    assert (table["name"], table["records"], table["writes"], table["format"]) == \
        ("firewall.connection", 20, 20, 2)
    code, out, _ = snf("show", "store", url(server))
    assert code == 0 and "firewall.connection" in out and "primary" in out


def test_records_are_shown_by_field(server, part):
    part.write(*(put_connection(flow4(i), i % 2 * ESTABLISHED)
                 for i in range(20)))
    part.write(put_connection(flow6(9), 0, 0))
    assert len(records(server)) == 21
    [one] = records(server, "dst=192.0.2.7")
    assert (one["protocol"], one["src"], one["dst"], one["rule"]) == \
        ("tcp", "10.0.0.1:1007", "192.0.2.7:80", "7")
    assert one["idle_ms"] == 60000 and 50000 < one["left_ms"] <= 60000
    assert len(records(server, "src=10.0.0.1")) == 20
    assert len(records(server, f"state={one['state']}")) == 10
    [six] = records(server, "dst=2001:db8::9")
    assert (six["protocol"], six["src"], six["left_ms"]) == ("udp", "[2001:db8::1]:53", 0)
    assert records(server, "dst=192.0.2") == [] and records(server, "zone=1") == []
    assert len(records(server, "--max", "3")) == 3
    code, out, _ = snf("show", "records", url(server), CONNECTION[0], "dst=192.0.2.7")
    assert "src=10.0.0.1:1007 dst=192.0.2.7:80" in out and \
        ("expires in 5" in out or "expires in 60" in out)


def test_a_record_of_another_format_is_shown_as_bytes(server, part):
    part.write(put(0, flow4(1), b"\x01\x02", form=9))
    [one] = records(server)
    assert one["value"] == "0102" and one["format"] == 9 and one["src"] == "10.0.0.1:1001"


def test_records_are_deleted_by_field_and_no_others(server, part):
    part.write(*(put_connection(flow4(i), 0) for i in range(20)))
    code, out, _ = snf("delete", "records", url(server), CONNECTION[0], "dst=192.0.2.7")
    assert code == 0 and out.startswith("1 deleted, 0 changed")
    assert len(records(server)) == 19 and records(server, "dst=192.0.2.7") == []
    code, _, err = snf("delete", "records", url(server), CONNECTION[0])
    assert code == 2 and "usage" in err and len(records(server)) == 19


def test_deleting_a_leased_record_makes_it_expire_with_its_handler(server):
    part = Partition(server.client(), "snf:{snf:0}", ("lb.client", 40, 24, 1, LEASED))
    part.write(put(0, flow4(1), b"x" * 24, 3600 * 1000))
    code, out, err = snf("delete", "records", url(server), "lb.client", "src=10.0.0.1")
    assert code == 0 and out.startswith("1 deleted"), err
    [lease] = part.due(timeout_ms=5000)
    assert lease.key == flow4(1)
    part.write(settle(0, lease.key, lease.version))
    assert part.tables()["lb.client"]["records"] == 0


def test_partitions_are_shown_as_one_store(server):
    for i in range(3):
        part = Partition(server.client(), f"snf:{{snf:{i}}}", CONNECTION, n_partitions=3)
        part.write(put(0, flow4(i), connection(0)))
    assert len(records(server)) == 3
    shown = json.loads(snf("show", "store", url(server), "--json")[1])
    assert (shown["partitions"], len(shown["servers"]), shown["tables"][0]["records"]) == \
        (3, 1, 3)


@pytest.mark.parametrize("lost", (0, 1, 3))
def test_a_missing_partition_does_not_hide_the_others(server, lost):
    for i in range(4):
        part = Partition(server.client(), f"snf:{{snf:{i}}}", CONNECTION, n_partitions=4)
        part.write(put(0, flow4(i), connection(0)))
    server.client()("DEL", f"snf:{{snf:{lost}}}")
    missing = f"partition {lost} of 4 is missing: its state is lost"
    code, out, err = snf("show", "store", url(server), "--json")
    assert code == 1 and missing in err and err.count("\n") == 1
    shown = json.loads(out)
    assert (shown["partitions"], shown["tables"][0]["records"]) == (4, 3)
    code, out, err = snf("show", "records", url(server), CONNECTION[0], "--json")
    assert code == 1 and missing in err and len(out.splitlines()) == 3
    code, out, err = snf("delete", "records", url(server), CONNECTION[0], "src=10.0.0.1")
    assert code == 1 and missing in err and "nothing was deleted" in err and out == ""
    assert len(snf("show", "records", url(server), CONNECTION[0])[1].splitlines()) == 3


def test_deleting_waits_for_a_replica(pair):
    one, two = (server.client() for server in pair)
    part = Partition(one, "snf:{snf:0}", CONNECTION)
    follow(pair[1], pair[0])
    caught_up(one, two)
    part.write(put(0, flow4(1), connection(0)), put(0, flow4(2), connection(0)))
    words = ("delete", "records", f"valkey://127.0.0.1:{pair[0].port}", CONNECTION[0])
    code, out, err = snf(*words, "dst=192.0.2.1")
    assert code == 0 and out.startswith("1 deleted"), err
    assert one("WAIT", 1, 0) == 1
    pair[1].process.send_signal(signal.SIGSTOP)  # Connected, and says nothing.
    code, out, err = snf(*words, "dst=192.0.2.2")
    assert code == 1 and out.startswith("1 deleted")
    assert "partition 0: 1 deleted, not confirmed by a replica" in err


@pytest.fixture
def liar():
    """A server whose SNF.SCAN answers what a test puts in; other questions as if there
    was one table of one partition."""
    table = b"*1\r\n*6\r\n$4\r\nname\r\n$1\r\nt\r\n$2\r\nid\r\n:0\r\n" \
        b"$10\r\npartitions\r\n:1\r\n"
    listener = socket.create_server(("127.0.0.1", 0))
    answers = {b"TABLES": table, b"SCAN": b""}

    def serve(client):
        with client:
            while data := client.recv(4096):
                client.sendall(next((a for word, a in answers.items() if word in data),
                                    b"+OK\r\n"))

    def accept():
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"valkey://127.0.0.1:{listener.getsockname()[1]}", answers
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("answer", [
    b"*2\r\n:0\r\n$9223372036854775807\r\n\1\0\0\0\0\0\0\0\1\0\377\0\377\377\0\0",
    b"*9223372036854775807\r\n" * 2 + b":0\r\n",
    b"*2\r\n:0\r\n$-1\r\n",
    b"*-1\r\n",
    b"nonsense\r\n",
])
def test_a_server_that_lies_is_complained_of(liar, answer):
    where, answers = liar
    answers[b"SCAN"] = answer
    code, out, err = snf("show", "records", where, "t")
    assert (code, out) == (1, "") and err.startswith("snf show records: ")


def test_a_server_that_falls_silent_is_left(liar):
    where, answers = liar
    code, out, err = snf("show", "records", where, "t")
    assert code == 1 and "no answer" in err


@pytest.mark.parametrize("words,says", [
    (("show", "store"), "usage"),
    (("show", "nothing", "x"), "usage"),
    (("show", "records", "URL"), "usage"),
    (("show", "records", "URL", "no.table"),
     "there is no table no.table, want one of: firewall.connection\n"),
    (("show", "records", "URL", "firewall.connection", "sorc=1"),
     "no field 'sorc', want one of: protocol, src, dst, zone, state"),
    (("delete", "records", "URL", "firewall.connection", "sorc=1"), "no field 'sorc'"),
    (("show", "records", "URL", "nat.ports", "port=1"), "first_port, protocol"),
    (("delete", "records", "URL", "nat.ports", "first_port=1024"), "is not deleted"),
    (("show", "instance", "x"), "usage: snf show instance [PID]"),
    (("show", "instance", "999999999"), "no instance has the process number 999999999"),
    (("show",), "'show' wants another word"),
    (("walk", "x"), "there is no command 'walk'"),
    (("show", "store", "valkey+unix:///nowhere/x"), "/nowhere/x"),
    (("show", "store", "embedded://"), "embedded"),
    (("show", "records", "URL", "firewall.connection", "--max", "x"), "usage"),
])
def test_a_mistake_is_said_in_a_line(server, part, words, says):
    code, out, err = snf(*(word.replace("URL", url(server)) for word in words))
    assert code in (1, 2) and says in err and out == ""
