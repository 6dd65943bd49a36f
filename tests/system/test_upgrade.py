"""test_upgrade.py - an instance meets records of another release's format: it says of
which table they are, drops the packets of those connections and of no others, and leaves
the records to whoever can read them.
"""
import socket

import pytest

from lab import wait_for
from store_client import Client, Partition, put
from test_traffic import CLIENT, SERVER, bound, counters, direct

TABLE = "firewall.connection"
PORT, OTHER = 5001, 5002


class Exchange:
    """Datagrams there and back, between ports of the client and one of the server."""

    def __init__(self, lab):
        self.server = bound(lab, "server", SERVER[4], 7000, socket.SOCK_DGRAM)
        self.client = {port: bound(lab, "client", CLIENT[4], port, socket.SOCK_DGRAM)
                       for port in (PORT, OTHER)}
        self.n = 0

    def send(self, port):
        self.n += 1
        self.client[port].sendto(b"%d" % self.n, (SERVER[4], 7000))

    def answer(self, port):
        self.server.sendto(b"%d" % self.n, (CLIENT[4], port))

    def works(self, port):
        self.send(port)
        assert self.server.recvfrom(100) == (b"%d" % self.n, (CLIENT[4], port))
        self.answer(port)
        assert self.client[port].recv(100) == b"%d" % self.n

    def close(self):
        for end in (self.server, *self.client.values()):
            end.close()


@pytest.mark.parametrize("form, n_bytes, says", [
    (3, 16, "reads up to 2: packets of those connections are dropped; upgrade this "
            "instance, or pin format 2 on the newer ones"),
    (1, 8, "too old for this release, which writes 2"),
    (2, 4, "but of another length than this release's")],
    ids=["from the future", "from long ago", "of another length"])
def test_what_cannot_be_read_is_named_and_harms_nobody_else(lab, form, n_bytes, says):
    store = lab.redis()
    process = direct(lab, store.url)
    ends = Exchange(lab)
    for port in (PORT, OTHER, PORT, OTHER):
        ends.works(port)

    client = Client(store.socket)
    table = Partition(client, "snf:{snf:0}").tables()[TABLE]
    # As another release opens it.
    part = Partition(client, "snf:{snf:0}",
                     (TABLE, table["key_max"], max(n_bytes, table["value_max"]), form))

    def record():
        return next(r for _, _, r in part.scan(part.ids[0])
                    if PORT.to_bytes(2, "big") in r.key)

    was = record()
    part.write(put(part.ids[0], was.key, bytes(range(n_bytes)), 60000, form))
    written = record()
    for i in range(3):
        ends.send(PORT)
        ends.answer(PORT)
        wait_for(lambda: counters(process)["dropped"]["format"] == 2 * i + 2, 5, "drops")
        ends.works(OTHER)
    process.wait_log(f"warning firewall: table connection has records of format {form}")
    assert says in process.log() and process.log().count("has records of") == 1
    stats = counters(process)
    assert stats["refused"] == {f"connection/{form}": 6}
    assert sum(stats["dropped"].values()) == 6
    assert record() == written and written.form == form

    # As a release that reads it leaves it again.
    part.write(put(part.ids[0], was.key, was.value, 60000, was.form))
    ends.works(PORT)
    assert counters(process)["dropped"]["format"] == 6
    ends.close()
    client.close()
