"""probes.py - the client in C, run by the tests that do things to its servers: what it
prints, and what it knows at its end."""
import os
import subprocess
import threading

import pytest

from store_client import BUILD, PROBE, die_with_parent, wait_until

LEASE_PROBE = os.path.join(BUILD, "tests", "lease-probe")


class Process:
    """A running probe, whose lines are read as they come."""

    def __init__(self, *words):
        self.process = subprocess.Popen([str(word) for word in words], text=True, bufsize=1,
                                        stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        self.lines = []
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.strip())

    @property
    def applied(self):
        """So many writes are acknowledged, as far as it said."""
        return max((int(line) for line in self.lines if line.isdigit()), default=0)

    def goes_on(self, writes=1000):
        """Waits until it has written so many more."""
        until = self.applied + writes
        wait_until(lambda: self.applied >= until or self.process.poll() is not None, 60)
        assert self.process.poll() is None or self.process.returncode == 0, self.lines[-1:]

    def result(self, seconds=120):
        """Its last words, as numbers; it has to end well."""
        code = self.process.wait(seconds)
        self.reader.join()
        assert code == 0 and self.lines[-1].startswith("done "), self.lines[-3:]
        words = (word.split("=") for word in self.lines[-1].split()[1:])
        return {name: int(value) for name, value in words}

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()


@pytest.fixture
def run():
    """Starts one: run(PROBE, url, ...)."""
    running = []

    def start(program, *words):
        if not os.path.exists(program):
            pytest.skip(program + " is not built")
        running.append(Process(program, *words))
        return running[-1]

    yield start
    for process in running:
        process.kill()
