"""test_show_instance.py - `snf show instance`: what the instances on this host count.  No
root, no network.
"""
import json
import os
import signal
import subprocess

import pytest

from lab import BUILD, wait_for

SNF = os.path.join(BUILD, "snf")
CONFIG = """function: [firewall, ips]
store: embedded
hugepages: "off"
memory: 64
ports: {inside: "gen:flows=10,packets=10,rate=1000", outside: gen}
firewall: {rules: [{action: deny, direction: out, source: 0.0.0.0/0}]}
ips: {signatures: []}
"""


def show(folder, *words):
    done = subprocess.run([SNF, "show", "instance", *words], text=True, timeout=60,
                          capture_output=True, env={**os.environ,
                                                    "RUNTIME_DIRECTORY": str(folder)})
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def instances(tmp_path):
    """Two of them, and a folder in which nobody else's are."""
    path, running = tmp_path / "snf.yaml", []
    path.write_text(CONFIG)
    try:
        for _ in range(2):
            log = tmp_path / f"log{len(running)}"
            with open(log, "w") as file:
                running.append(subprocess.Popen(
                    [SNF, "run", path], stderr=file,
                    env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)}))
            wait_for(lambda: "ready" in log.read_text(), 30, "an instance")
        yield tmp_path, running
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_people_see_what_was_dropped_and_why(instances):
    folder, (one, _) = instances
    wait_for(lambda: "dropped.policy" in show(folder, str(one.pid))[1], 10, "drops")
    code, out, err = show(folder, str(one.pid))
    assert (code, err) == (0, "")
    title, *lines = out.splitlines()
    shown = dict(line.split(None, 1) for line in lines)
    assert title == f"instance {one.pid}"
    assert (shown["function"], shown["store"]) == ("firewall, ips", "connected")
    assert int(shown["received"]) >= int(shown["dropped.policy"]) > 0
    assert "dropped.parse" not in shown and "cycles.run" not in shown


def test_programs_get_all_of_it(instances):
    folder, running = instances
    code, out, _ = show(folder, "--json")
    found = {one["pid"]: one["counters"] for one in map(json.loads, out.splitlines())}
    assert code == 0 and set(found) == {process.pid for process in running}
    for counters in found.values():
        assert counters["dropped"]["parse"] == 0 and counters["cycles"]["run"] > 0


def test_those_that_are_gone_are_not_shown(instances):
    folder, (one, two) = instances
    one.kill()
    one.wait()
    code, out, _ = show(folder)
    assert code == 0 and f"instance {two.pid}" in out and str(one.pid) not in out
    assert show(folder, str(one.pid))[0] == 1
    two.send_signal(signal.SIGTERM)
    assert two.wait(10) == 0
    code, out, err = show(folder)
    assert (code, out) == (1, "") and "no instance runs here" in err
    assert str(folder) in err and err.count("\n") == 1
