"""telemetry.py - the counters of a running instance, from DPDK's telemetry socket."""
import json
import re
import socket


class Telemetry:
    """A connection to the instance whose files are in 'folder'/dpdk and which has the
    number 'pid' in its own eyes."""

    def __init__(self, pid, folder="/var/run"):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        try:
            self.socket.connect(f"{folder}/dpdk/snf-{pid}/dpdk_telemetry.v2")
            self.socket.recv(4096)          # Who it is.
        except OSError:
            self.socket.close()
            raise

    def stats(self):
        self.socket.send(b"/snf/stats")
        return json.loads(self.socket.recv(65536))["/snf/stats"]

    def close(self):
        self.socket.close()


def of_process(process):
    """That of an instance in a lab."""
    with open(f"/proc/{process.pid}/status") as status:
        pid = re.search(r"NSpid:.*\s(\d+)\n", status.read())[1]
    return Telemetry(pid, f"/proc/{process.pid}/root/run")


def settled(stats):
    """Packets that are through, one way or another.  What was kept and comes again, counts
    when it does."""
    return (stats["sent"] + stats["kept"] + sum(stats["dropped"].values()) -
            stats.get("injected", 0))
