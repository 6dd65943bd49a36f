"""faults.py - what is done to a store and its clients, drawn from a seed.

Three lanes run beside each other: one breaks servers and links, one after the other; one
breaks connections; one breaks clients.  What a lane does and how long it waits follows
from the seed alone, when exactly does not: servers take the time they take.
"""
import collections
import random
import threading
import traceback

from beds import PORT, SETTLE_S


class Lane(threading.Thread):
    """Calls step(draw) again and again until it is told to stop."""

    def __init__(self, name, seed, stop, step, pause_s):
        super().__init__(name=name, daemon=True)
        self.draw, self.stop = random.Random(f"{seed}-{name}"), stop
        self.step, self.pause_s = step, pause_s
        self.error = None

    def run(self):
        try:
            while not self.stop.wait(self.draw.uniform(*self.pause_s)):
                self.step(self.draw)
        except Exception:
            self.error = traceback.format_exc()


class Faults:
    def __init__(self, bed, clients, seed, log):
        self.bed, self.clients, self.log = bed, clients, log
        self.stop = threading.Event()
        self.counts = collections.Counter()
        self.kinds = self._kinds()
        self.lanes = [
            Lane("servers", seed, self.stop, self._servers, (0.2, 1.5)),
            Lane("connections", seed, self.stop, self._connections, (0.5, 3)),
            Lane("clients", seed, self.stop, self._clients, (0.5, 2.5))]

    def start(self):
        for lane in self.lanes:
            lane.start()

    def abandon(self):
        self.bed.abandoned.set()
        self.stop.set()
        for lane in self.lanes:
            lane.join()

    def end(self):
        """Waits for what is under way; raises what went wrong."""
        self.stop.set()
        for lane in self.lanes:
            lane.join(3 * SETTLE_S)
            if lane.error is not None or lane.is_alive():
                raise RuntimeError(f"lane {lane.name}: {lane.error or 'hangs'}")

    # --- Servers and links -----------------------------------------------------------

    def _kinds(self):
        """Pairs of how often and what."""
        kinds = [(3, self.kill), (3, self.pause), (2, self.cut_off), (1, self.unplug),
                 (1, self.cut_clients)]
        if len(self.bed.nodes) > 1:
            kinds += [(3, self.cut_peers), (1, self.cut_replica), (1, self.kill_replica),
                      (1, self.pause_replica), (2, self.force)]
        else:
            kinds += [(1, self.rewrite)]
        if len(self.bed.shards) > 1:
            kinds += [(5, self.move)]
        return kinds

    def _servers(self, draw):
        kind, = draw.choices([k for _, k in self.kinds], [w for w, _ in self.kinds])
        shard = draw.choice(self.bed.shards)
        primary, replicas = self.bed.peers(shard)
        self.log(f"{kind.__name__}: primary is {primary.host}")
        self.counts[kind.__name__] += 1
        kind(draw, shard, primary, replicas)
        self.bed.settle()
        promoted = self.bed.peers(shard)[0] is not primary
        self.counts["promoted"] += promoted
        self.log("in order again" + (", another primary" if promoted else ""))

    def _for_a_while(self, draw):
        """Shorter and longer than it takes to be declared dead, and than a lease."""
        self.stop.wait(draw.choice((draw.uniform(0.02, 0.4), draw.uniform(0.4, 1.5),
                                    draw.uniform(1.5, 5))))

    def kill(self, draw, shard, primary, replicas):
        primary.kill()
        if replicas:
            other, = replicas
            self.bed.wait(lambda: self.bed.primary(shard) is other, "a promotion")
            self.log(f"{other.host} is promoted")
        self.stop.wait(draw.uniform(0, 1.5))

    def pause(self, draw, _shard, primary, _replicas):
        primary.pause()
        self._for_a_while(draw)
        primary.resume()

    def _cut(self, draw, node, others):
        self.bed.net.cut(node.host, others)
        self._for_a_while(draw)

    def cut_off(self, draw, _shard, primary, _replicas):
        self._cut(draw, primary, [n for n in self.bed.net.names if n != primary.host])

    def cut_peers(self, draw, _shard, primary, _replicas):
        """The clients still reach it, and it does not know that it is alone."""
        self._cut(draw, primary, [n for n in self.bed.hosts if n != primary.host])

    def cut_replica(self, draw, _shard, primary, replicas):
        self._cut(draw, primary, [replica.host for replica in replicas])

    def cut_clients(self, draw, _shard, primary, _replicas):
        self._cut(draw, primary, ["clients"])

    def unplug(self, draw, _shard, primary, _replicas):
        self.bed.net.plug(primary.host, "down")
        self._for_a_while(draw)

    def kill_replica(self, draw, _shard, _primary, replicas):
        replicas[0].kill()
        self._for_a_while(draw)

    def pause_replica(self, draw, _shard, _primary, replicas):
        replicas[0].pause()
        self._for_a_while(draw)
        replicas[0].resume()

    def force(self, draw, shard, _primary, _replicas):
        self.bed.force(shard, draw)

    def rewrite(self, _draw, _shard, primary, _replicas):
        primary.ask("BGREWRITEAOF")

    def move(self, draw, shard, _primary, _replicas):
        partition = draw.randrange(self.bed.n_partitions)
        source = self.bed.shard_of(partition)
        if source is shard:
            shard = draw.choice([s for s in self.bed.shards if s is not source])
        self.log(f"partition {partition} from {self.bed.peers(source)[0].host} to "
                 f"{self.bed.peers(shard)[0].host}")
        self.bed.move(partition, shard, lambda: self.stop.wait(draw.uniform(0, 0.5)))

    # --- Connections and clients -------------------------------------------------------

    def _connections(self, draw):
        node = draw.choice(self.bed.nodes)
        self.log(f"connections of {node.host} are killed")
        with self.bed.moving:
            node.ask("CLIENT", "KILL", "TYPE", "normal", "LADDR", f"{node.address}:{PORT}")

    def _clients(self, draw):
        slot = draw.randrange(len(self.clients.running))
        if draw.random() < 0.5:
            self.log(f"client {slot} is killed")
            self.clients.replace(slot)
        else:
            self.log(f"client {slot} is stopped")
            self.clients.pause(slot, lambda: self._for_a_while(draw))
