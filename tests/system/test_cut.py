"""What a snapshot of several disks at one cut holds, while all of them are written through the pool's process.

It promises every write completed before the call and none submitted after its return; if write B was submitted after A
completed, B in it implies A in it; and that all of it is durable when it returns. Each write is a block with a number of its own.
"""

import itertools
import json
import os
import random
import signal
import socket
import threading
import time

from devtap_test.case import limit
from devtap_test.nbdclient import FLUSH, WRITE, NbdClient
from devtap_test.nbdkit import Export
from devtap_test.pool import PoolProcess, check, cvd

BLOCK = 4096
PLACES = 64
DEPTH = 8
DISKS = 4
CUTS = 12


class Put:
    """A write, and the moments when it was submitted and completed."""

    def __init__(self, number, place, submitted):
        self.number, self.place, self.submitted, self.completed = number, place, submitted, float("inf")


class Writer:
    """Keeps writes under way on one disk, at most one at each place, and flushes now and then."""

    def __init__(self, export, name, moments, numbers):
        self.name, self.moments, self.numbers = name, moments, numbers
        self.client = NbdClient(export.socket)
        self.random = random.Random(name)
        self.puts, self.ending, self.failed = {}, False, None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def submit(self, busy):
        """One more."""
        if self.random.randrange(50) == 0:
            busy[0] = None
            self.client.send(FLUSH, 0)
            return
        place = self.random.choice([p for p in range(PLACES) if p not in busy.values()])
        put = Put(next(self.numbers), place, next(self.moments))
        self.puts[put.number] = put
        busy[put.number] = place
        self.client.send(WRITE, put.number, place * BLOCK, data=put.number.to_bytes(8, "little") * (BLOCK // 8))

    def run(self):
        busy = {}
        try:
            while busy or not self.ending:
                while len(busy) < DEPTH and 0 not in busy and not self.ending:
                    self.submit(busy)
                number = self.client.answer()
                del busy[number]
                if number:
                    self.puts[number].completed = next(self.moments)
            self.client.close()
        except (OSError, AssertionError) as error:
            self.failed = error

    def goes_on(self, more):
        """Waits until so many more were completed."""
        goal = len(self.puts) + more
        while len(self.puts) < goal:
            assert self.thread.is_alive(), self.failed
            time.sleep(0.01)

    def end(self):
        self.ending = True
        self.thread.join()
        assert self.failed is None, f"{self.name}: {self.failed}"


class Cut:
    """A snapshot of all disks, asked for without the way round by a command: .called and .returned are moments."""

    def __init__(self, pool, name, moments, names):
        words = ["snap", *(f"{pool}/{disk}" for disk in names), "--name", name]
        request = json.dumps({"verb": "run", "pool": str(pool), "words": words}) + "\n"
        self.name = name
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{pool}.sock")
            self.called = next(moments)
            sock.sendall(request.encode())
            answer = json.loads(sock.makefile().readline())
            self.returned = next(moments)
        assert answer["ok"], answer

    def read(self, t, pool, writer):
        """The number at each place of a disk, of a write that was to that place."""
        copy = t.folder / f"{writer.name}-{self.name}"
        cvd("export", f"{pool}/{writer.name}@{self.name}", copy)
        data = copy.read_bytes()
        holds = []
        for place in range(PLACES):
            block = data[place * BLOCK:(place + 1) * BLOCK]
            number = int.from_bytes(block[:8], "little")
            assert block == block[:8] * (BLOCK // 8), f"{copy.name}: block {place} is a mixture"
            assert not number or writer.puts[number].place == place, f"{copy.name}: block {place} is another's"
            holds.append(number)
        return holds

    def judge(self, t, pool, writers):
        """Fails where a promise was broken; returns how many writes were under way, and in or not."""
        inside, outside = [], []
        for writer in writers:
            holds = self.read(t, pool, writer)
            for put in writer.puts.values():
                (inside if put.number <= holds[put.place] else outside).append(put)
        latest = max((put.submitted for put in inside), default=0)
        for put in outside:
            assert put.completed > self.called, f"{self.name} lacks write {put.number}, completed before the call"
            assert put.completed > latest, f"{self.name} has a write submitted after {put.number}, which it lacks"
        for put in inside:
            assert put.submitted < self.returned, f"{self.name} has write {put.number}, submitted after its return"
        return (sum(put.completed > self.called for put in inside),
                sum(put.submitted < self.called for put in outside))


@limit(120)
def test_promise(t):
    """Each of some cuts of four disks under load, after half of which the pool's process is killed at once."""
    pool, names = t.folder / "pool", [f"d{n}" for n in range(DISKS)]
    cvd("pool", "create", pool, "--size", "256M")
    for name in names:
        cvd("create", f"{pool}/{name}", "--size", PLACES * BLOCK)
    process = t.use(PoolProcess(pool, t.folder))
    disk = t.soft_disk(f"cvd pool={pool} name=d0", disk="d0", more={n: f"cvd pool={pool} name={n}" for n in names[1:]})
    moments, numbers = itertools.count(1), itertools.count(1)
    writers = [Writer(t.use(Export(t, disk.sockets[name])), name, moments, numbers) for name in names]
    cuts = []
    try:
        for number in range(CUTS):
            for writer in writers:
                writer.goes_on(20)
            worker = process.worker()
            cuts.append(Cut(pool, f"cut{number}", moments, names))
            if number % 2:
                os.kill(worker, signal.SIGKILL)
    finally:
        for writer in writers:
            writer.ending = True
        for writer in writers:
            writer.end()
    under_way = [cut.judge(t, pool, writers) for cut in cuts]
    t.log(f"{sum(len(w.puts) for w in writers)} writes; under way at each call, and in it or not: {under_way}")
    assert sum(a + b > 0 for a, b in under_way) > CUTS // 2, f"few cuts were under load: {under_way}"
    disk.stop()
    process.stop()
    check(pool)
