"""test_lb_health.py - health checks by two instances on one store, of real servers: made
once for both, whoever of them lives; what they find is an event, and a line of the log.

The instances have no traffic.  Their probes go through the kernel of their host.
"""
import http.server
import json
import os
import signal
import socket
import threading
import time

from lab import BUILD, wait_for

GATEWAY, SERVERS = "10.0.0.1", [f"10.0.0.{i}" for i in (2, 3, 4)]
INTERVAL_S = 0.5
SLACK_S = 5         # The machine has other things to do.


class Web:
    """A server of one address that counts who asks, and says what it is told to."""

    def __init__(self, lab, address, port=80):
        self.status, self.times, self.hang = 200, [], threading.Event()
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                web.times.append(time.monotonic())
                if web.status is None:
                    web.hang.wait()
                    return
                self.send_response(web.status)
                self.end_headers()
                self.wfile.write(b"all is well\n")

            def log_message(self, *_):
                pass

        def make():
            return http.server.ThreadingHTTPServer((address, port), Handler)
        self.server = lab.inside("servers", make)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def n(self):
        return len(self.times)

    def stop(self):
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()


def network(lab):
    lab.host("gateway", f"{GATEWAY}/24")
    lab.host("servers", *(f"{address}/24" for address in SERVERS))
    lab.link("gateway:eth0", "servers:eth0")


def config(lab, store, name, check):
    backends = ", ".join(f"{address}:80" for address in SERVERS)
    return (f'function: lb\nstore: "{store}"\nevents: {lab.dir}/{name}.events\n'
            f"ports: {{inside: \"tap:{name}_in\", outside: \"tap:{name}_out\"}}\n"
            f"lb:\n  address: 192.0.2.1:80\n  backends: [{backends}]\n"
            f"  check: {{{check}}}\n")


def instance(lab, store, name, check):
    return lab.snf(config(lab, store, name, check), name, netns="gateway")


HTTP = f"type: http, interval: {int(INTERVAL_S * 1000)}ms, timeout: 400ms, jitter: 0"


def pair(lab, check=HTTP):
    network(lab)
    webs = [Web(lab, address) for address in SERVERS]
    store = lab.redis()
    instances = [instance(lab, store.url, name, check) for name in ("a", "b")]
    more(webs, 1)
    return webs, store, instances


def more(webs, n):
    """Waits for so many more probes of each; returns how long the last n - 1 took."""
    want = {web: web.n + n for web in webs}
    wait_for(lambda: all(web.n >= want[web] for web in webs),
             3 * n * INTERVAL_S + SLACK_S, f"{n} probes")
    return [web.times[want[web] - 1] - web.times[want[web] - n] for web in webs]


def events(lab, *names):
    found = []
    for name in names:
        path = f"{lab.dir}/{name}"
        if os.path.exists(path):
            with open(path) as file:
                found += [json.loads(line) for line in file]
    return found


def wait_event(lab, event, address, deadline_s, names=("a.events", "b.events")):
    """The last such event, when there is one."""
    def last():
        return [e for e in events(lab, *names)
                if e["event"] == event and e["backend"]["ip"] == address]
    return wait_for(last, deadline_s, f"{event} of {address}")[-1]


def test_two_instances_make_one_set_of_probes(lab):
    """[B44] Two sets would take half of the time."""
    webs, _, _ = pair(lab)
    took = more(webs, 11)
    assert all(t >= 10 * INTERVAL_S * 0.95 for t in took), took


def test_probes_go_on_when_either_instance_is_killed(lab):
    """[B44]"""
    webs, store, instances = pair(lab)
    for i, name in enumerate(("a", "b")):
        instances[i].kill(signal.SIGKILL)
        instances[i].wait()
        more(webs, 4)
        instances[i] = instance(lab, store.url, name, HTTP)
    webs[0].status = 503
    wait_event(lab, "backend_down", SERVERS[0], 3 * INTERVAL_S + SLACK_S)


def test_a_backend_falls_in_time_and_rises_again(lab):
    """[B44] Once for the fleet, as an event, and in the log."""
    webs, _, instances = pair(lab, HTTP + ", fall: 3, rise: 2, match: well")
    webs[1].status = 503
    before = webs[1].n
    down = wait_event(lab, "backend_down", SERVERS[1], 3 * INTERVAL_S + SLACK_S)
    assert 3 <= webs[1].n - before <= 4 + SLACK_S / INTERVAL_S
    assert down["event_type"] == "lb" and down["cause"] == 503
    assert down["backend"] == {"ip": SERVERS[1], "port": 80}
    assert len(down["id"]) == 16 and "unconfirmed" not in down
    webs[1].status = 200
    wait_event(lab, "backend_up", SERVERS[1], 2 * INTERVAL_S + SLACK_S)
    webs[2].stop()
    down = wait_event(lab, "backend_down", SERVERS[2], 3 * INTERVAL_S + SLACK_S)
    assert down["cause"] == 111
    found = [e["event"] for e in events(lab, "a.events", "b.events")]
    assert sorted(found) == ["backend_down", "backend_down", "backend_up"]
    log = "".join(process.log() for process in instances)
    assert log.count("backend_down, ") == 2 and log.count("backend_up, ") == 1


def test_events_go_on_in_a_new_file(lab):
    """SIGHUP, as logrotate sends it."""
    network(lab)
    web = Web(lab, SERVERS[0])
    process = instance(lab, "embedded:", "a", HTTP + ", fall: 1, rise: 1")
    for address in SERVERS[1:]:
        wait_event(lab, "backend_down", address, INTERVAL_S + SLACK_S, ["a.events"])
    more([web], 1)
    os.rename(f"{lab.dir}/a.events", f"{lab.dir}/a.events.1")
    process.kill(signal.SIGHUP)
    process.wait_log("reloaded")
    web.status = 500
    wait_event(lab, "backend_down", SERVERS[0], INTERVAL_S + SLACK_S, ["a.events"])
    old = [e["backend"]["ip"] for e in events(lab, "a.events.1")]
    assert sorted(old) == SERVERS[1:]


def test_a_backend_that_hangs_does_not_keep_an_instance(lab):
    """Neither a reload nor the end waits for a probe."""
    network(lab)
    web = Web(lab, SERVERS[0])
    web.status = None
    process = instance(lab, "embedded:", "a",
                       "type: http, interval: 60s, timeout: 60s, jitter: 0")
    more([web], 1)
    start = time.monotonic()
    process.kill(signal.SIGHUP)
    process.wait_log("reloaded", 10)
    process.kill(signal.SIGTERM)
    assert process.wait() == 0
    assert time.monotonic() - start < 10
    assert "still under way" in process.log()
    web.stop()


def test_what_a_check_may_not_say_has_its_line(lab):
    """What is wrong only beside another option, too."""
    for check, line in (("type: tcp, timeout: 3s", "'lb.check.timeout' is longer"),
                        ("type: tcp, path: /", "'check.path' is not for checks of type tcp")):
        path = f"{lab.dir}/wrong.yaml"
        with open(path, "w") as file:
            file.write(config(lab, "embedded:", "wrong", check))
        done = lab.run_raw(f"{BUILD}/snf", "check", path)
        assert done.returncode == 2 and f"wrong.yaml:8: {line}" in done.stderr, done.stderr


def test_udp_and_ping(lab):
    """[B44] A port that nobody has is refused by the kernel; an address that nobody has
    is silent."""
    network(lab)
    quiet = lab.inside("servers", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    quiet.bind((SERVERS[0], 80))
    udp = instance(lab, "embedded:", "a",
                   "type: udp, interval: 500ms, timeout: 200ms, fall: 1")
    for address in SERVERS[1:]:
        wait_event(lab, "backend_down", address, SLACK_S, ["a.events"])
    udp.kill(signal.SIGTERM)
    udp.wait()
    assert {e["backend"]["ip"] for e in events(lab, "a.events")} == set(SERVERS[1:])
    lab.ip("addr", "del", f"{SERVERS[2]}/24", "dev", "eth0", netns="servers")
    instance(lab, "embedded:", "b", "type: icmp, interval: 500ms, timeout: 200ms, fall: 1")
    down = wait_event(lab, "backend_down", SERVERS[2], SLACK_S, ["b.events"])
    assert down["cause"] in (110, 113)
    assert {e["backend"]["ip"] for e in events(lab, "b.events")} == {SERVERS[2]}
    quiet.close()
