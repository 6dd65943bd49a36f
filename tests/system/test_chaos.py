"""test_chaos.py - some minutes of tests/chaos/chaos.py: stores of each kind are broken at
random under several clients, and the histories of what these were told are checked.  The
seeds are new ones each time, and printed; `make chaos` is the same for hundreds of them.
"""
import os
import random
import subprocess
import sys

import pytest

from lab import BUILD, REPO, missing_rights

CHAOS = os.path.join(REPO, "tests", "chaos", "chaos.py")
CLIENT = os.path.join(BUILD, "tests", "chaos-client")

pytestmark = pytest.mark.skipif(not os.path.exists(CLIENT), reason=CLIENT + " is not built")


@pytest.mark.parametrize("topology, runs, seconds", [
    ("single", 3, 8), ("sentinel", 3, 10), ("cluster", 3, 10)])
def test_histories_are_those_of_a_correct_store(topology, runs, seconds, capsys):
    why = missing_rights()
    if why is not None:
        pytest.skip(why)
    done = subprocess.run(
        [sys.executable, CHAOS, "--topology", topology, "--runs", str(runs),
         "--seconds", str(seconds), "--seed", str(random.randrange(10 ** 6))],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    with capsys.disabled():
        print("\n" + done.stdout, end="")
    assert done.returncode == 0, done.stdout
