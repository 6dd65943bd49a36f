"""test_demo_store.py - `make demo-store` in small: downloads go on while the store's
primary is killed, one of a Cluster's is, and all partitions move."""
import json
import os
import subprocess
import sys

import pytest

from lab import BUILD, REPO, missing_rights

DOWNLOADS = 20


@pytest.mark.parametrize("act", (1, 2, 3))
def test_no_download_fails(act):
    why = missing_rights()
    if why is not None:
        pytest.skip(why)
    done = subprocess.run(
        [sys.executable, os.path.join(REPO, "scripts", "demo-store"), "--json",
         "--downloads", str(DOWNLOADS), "--act", str(act)],
        env=dict(os.environ, SNF_BUILD=BUILD), capture_output=True, text=True,
        timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    [figures] = shown["acts"]
    assert shown["ok"] and figures["under_way"] > 0
    assert (figures["completed"], figures["failed"]) == (DOWNLOADS, 0)
