#!/usr/bin/python3
"""chaos.py - breaks stores at random while clients use them, and has what they were told
checked.

    chaos.py [--topology single,sentinel,cluster] [--runs N] [--seconds N] [--seed S]

Each run starts servers, several clients and a schedule of faults, all drawn from the
run's seed; then everything is put in order, what is left to do is done, all records are
read, and checker.py judges the histories.  What it needs of a failed run, and the
servers' logs, stay in a folder that is named.  Nothing else stays, however this ends.
"""
import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import struct
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import beds
from beds import BEDS, BUILD, Client, Refused, wait_for
from faults import Faults
from lab import Lab, missing_rights
import checker
from history import LETTERS

CLIENT = os.path.join(BUILD, "tests", "chaos-client")
N_CLIENTS, DRAIN_SLOT = 3, 99
END_S = 40
ENOUGH = {"applied": 200, "adds": 20, "takes": 5, "gives": 5, "settles": 1, "reads": 200}


class Clients:
    """The processes, by slot; one that was killed is replaced by a next incarnation."""

    def __init__(self, bed, folder, seed, timeout_ms):
        self.bed, self.folder, self.seed = bed, folder, seed
        self.timeout_ms = timeout_ms
        self.incarnation = collections.Counter()
        self.running = {}

    def path(self, slot):
        return f"{self.folder}/{slot}.{self.incarnation[slot]}.history"

    def start(self, slot, mode="work"):
        self.incarnation[slot] += 1
        words = [slot, self.incarnation[slot],
                 self.seed * 1000 + slot * 100 + self.incarnation[slot], self.bed.commit,
                 self.timeout_ms, self.bed.n_partitions, mode]
        self.running[slot] = beds.Program(
            self.bed.lab, f"client{slot}-{self.bed.n_runs}",
            [CLIENT, self.bed.url, self.path(slot), *map(str, words)], "clients")

    def replace(self, slot):
        self.must_live(slot)
        self.running[slot].kill()
        self.running[slot].wait()
        self.start(slot)

    def pause(self, slot, wait):
        self.must_live(slot)
        self.running[slot].kill(signal.SIGSTOP)
        wait()
        self.running[slot].kill(signal.SIGCONT)

    def must_live(self, slot):
        process = self.running[slot]
        if not process.alive:
            raise RuntimeError(f"client {slot} ended by itself, {process.wait()}:\n"
                               f"{process.log()[-3000:]}")

    def go_on(self):
        """Each of them gets a group acknowledged in each partition, from now on."""
        waiting = {}
        for slot in self.running:
            wait_for(lambda: self.must_live(slot) or os.path.exists(self.path(slot)),
                     END_S, "a history")
            waiting[slot] = open(self.path(slot)), set(range(self.bed.n_partitions))
            waiting[slot][0].seek(0, os.SEEK_END)
        try:
            wait_for(lambda: self._all_go_on(waiting), END_S,
                     "an acknowledgement in each partition to each client")
        except TimeoutError as error:
            left = {slot: left for slot, (_, left) in waiting.items() if left}
            raise TimeoutError(f"{error}; missing: {left}") from None
        finally:
            for file, _ in waiting.values():
                file.close()

    def _all_go_on(self, waiting):
        for slot, (file, left) in waiting.items():
            self.must_live(slot)
            for partition in re.findall(r"^A \d+ \w+ (\d+) applied$", file.read(), re.M):
                left.discard(int(partition))
        return not any(left for _, left in waiting.values())

    def stop(self):
        """They give back what they hold, and end."""
        for slot, process in self.running.items():
            self.must_live(slot)
            process.kill(signal.SIGTERM)
        for slot, process in self.running.items():
            if process.wait(END_S) != 0:
                raise RuntimeError(f"client {slot}: {process.wait()}: {process.log()}")
        self.running = {}


class Store:
    """The partitions as they are, asked of those that have them."""

    def __init__(self, bed):
        self.bed = bed

    def tables(self, client, partition):
        answer = client("SNF.TABLES", self.bed.key(partition))
        tables = [beds.pairs(table) for table in answer]
        return {table["name"]: table for table in tables}

    def client(self, node):
        client = Client(node.socket)
        try:
            client("READONLY")
        except Refused:
            pass                    # No cluster.
        return client

    def quiet(self):
        """Whether every timer is settled and every quarantine is over."""
        for partition in range(self.bed.n_partitions):
            client = self.client(self.bed.primary_of(partition)[0])
            tables = self.tables(client, partition)
            client.close()
            for name in ("chaos.timer", "snf.quarantine"):
                if name in tables and tables[name]["records"] != "0":
                    return False
        return True

    def scan(self, node, partition):
        """All records of our tables: {(table, key): (version, value)}."""
        client, records = self.client(node), {}
        for name, table in self.tables(client, partition).items():
            if name not in LETTERS:
                continue
            cursor = 0
            while True:
                cursor, *found = client("SNF.SCAN", self.bed.key(partition), table["id"],
                                        cursor, 1000)
                for record in found:
                    key, version, value = self.parse(record)
                    records[LETTERS[name], key] = version, value
                cursor = int(cursor)
                if cursor == 0:
                    break
        client.close()
        return records

    @staticmethod
    def parse(record):
        _, _, _, _, key_bytes, _, value_bytes, _, version = struct.unpack_from(
            "<IIBBBBHHQ", record)
        at = 24 + (value_bytes + 7 & ~7)
        return record[at:at + key_bytes], version, record[24:24 + value_bytes]

    def write(self, folder):
        """All of it into final.txt; returns how copies differ."""
        problems = []
        with open(f"{folder}/final.txt", "w") as file:
            for partition in range(self.bed.n_partitions):
                primary, replicas = self.bed.primary_of(partition)
                records = self.scan(primary, partition)
                for replica in replicas:
                    wait_for(lambda: replica.follows(primary), END_S, "a full replica")
                    copy = self.scan(replica, partition)
                    for at in {k for k, _ in records.items() ^ copy.items()}:
                        problems.append(
                            f"V9: {at[0]}/{at[1].hex()} of partition {partition} is "
                            f"{records.get(at)} on {primary.host}, {copy.get(at)} on its "
                            f"replica {replica.host}")
                for (table, key), (version, value) in records.items():
                    file.write(f"{partition} {table} {key.hex()} {version:x} "
                               f"{value.hex()}\n")
        return problems


class Run:
    def __init__(self, bed, seed, seconds):
        self.bed, self.seed, self.seconds = bed, seed, seconds
        self.folder = f"{bed.lab.dir}/run{bed.n_runs + 1}"
        self.counts, self.faults = {}, {}
        os.mkdir(self.folder)

    def log(self, text):
        """In the clock of the histories."""
        with open(f"{self.folder}/faults.txt", "a") as file:
            file.write(f"{time.monotonic_ns() / 1e9:.3f} {text}\n")

    def go(self):
        """What is wrong, a line each."""
        try:
            problems = self._play()
            problems += checker_says(self, problems)
        except Exception:
            self.log("ended by an error")
            problems = [traceback.format_exc()]
        finally:
            self.bed.end()
        return problems

    def _play(self):
        draw = random.Random(f"{self.seed}")
        self.bed.start(self.folder, self.log)
        clients = Clients(self.bed, self.folder, self.seed, draw.choice((800, 2000, 4000)))
        for slot in range(N_CLIENTS):
            clients.start(slot)
        clients.go_on()
        faults = Faults(self.bed, clients, self.seed, self.log)
        self.faults = faults.counts
        faults.start()
        try:
            faults.stop.wait(self.seconds)
            faults.end()
        except BaseException:
            faults.abandon()
            raise
        self.bed.settle()
        self.log("all faults are over")
        clients.go_on()
        clients.stop()
        self.log("all clients have ended")
        store = Store(self.bed)
        clients.start(DRAIN_SLOT, "drain")
        problems = []
        try:
            wait_for(store.quiet, END_S, "an end of all timers and quarantines")
        except TimeoutError as error:
            problems.append(f"V8: {error}")
        clients.stop()
        problems += store.write(self.folder)
        with open(f"{self.folder}/run.json", "w") as file:
            json.dump({"strict": self.bed.strict, "problems": problems}, file)
        return problems

    def keep(self, name):
        """What there is to look at, in a folder that stays."""
        kept = os.path.join(BUILD, "chaos", f"{name}-{self.seed}")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.folder, kept, ignore=shutil.ignore_patterns(
            "s", "appendonlydir", "*.rdb"))
        for process in self.bed.lab.processes:
            if process.name.endswith(f"-{self.bed.n_runs}"):
                shutil.copy(process.log_path, kept)
        return kept


def checker_says(run, known):
    found, run.counts = checker.check(run.folder)
    found = [line for line in found if line not in known]
    if not known and not found:
        found = [f"only {run.counts.get(what, 0)} {what}: too few to tell anything"
                 for what, enough in ENOUGH.items() if run.counts.get(what, 0) < enough]
    return found


def play(topology, bed, seed, args):
    start = time.monotonic()
    run = Run(bed, seed, args.seconds)
    problems = run.go()
    counts = "; ".join(", ".join(f"{n} {what}" for what, n in sorted(some.items()))
                       for some in (run.faults, run.counts))
    print(f"{topology} seed {seed}: {'FAILED' if problems else 'ok'} in "
          f"{time.monotonic() - start:.0f} s; {counts}", flush=True)
    if problems:
        for line in problems[:10]:
            print(f"    {line}")
        print(f"    {len(problems)} in all; again:\n"
              f"    {sys.argv[0]} --topology {topology} --runs 1 --seconds {args.seconds} "
              f"--seed {seed}", flush=True)
    if problems or args.keep:
        print(f"    kept in {run.keep(topology)}", flush=True)
    shutil.rmtree(run.folder, ignore_errors=True)
    return not problems


def arguments():
    parser = argparse.ArgumentParser(description="Breaks stores, and checks them.")
    parser.add_argument("--topology", default=",".join(BEDS),
                        help="which of them, with commas between: %(default)s")
    parser.add_argument("--runs", type=int, default=100, help="of each: %(default)s")
    parser.add_argument("--seconds", type=float, default=15,
                        help="of faults in a run: %(default)s")
    parser.add_argument("--seed", type=int, default=random.randrange(10 ** 6),
                        help="of the first run; the next has the next: at random")
    parser.add_argument("--keep", action="store_true", help="the histories of all runs")
    args = parser.parse_args()
    args.topology = args.topology.split(",")
    for name in args.topology:
        if name not in BEDS:
            parser.error(f"{name} is none of {', '.join(BEDS)}")
    return args


def play_all(args):
    passed = failed = 0
    for topology in args.topology:
        with Lab() as lab:
            bed = BEDS[topology](lab)
            for i in range(args.runs):
                if play(topology, bed, args.seed + i, args):
                    passed += 1
                else:
                    failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed > 0


def main():
    args = arguments()
    why = missing_rights()
    if why is not None:
        sys.exit(f"chaos.py {why}")
    try:
        return play_all(args)
    except KeyboardInterrupt as stopped:
        return 128 + getattr(stopped, "number", signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
