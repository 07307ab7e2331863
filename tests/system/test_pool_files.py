"""A kernel file system on a disk of a pool, by nbdkit, nbdfuse and a loop device, while the pool's process is killed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

from devtap_test import fsx
from devtap_test.case import limit
from devtap_test.nbdkit import Export, loop_device, mounted, need_loop_device, run
from devtap_test.pool import PoolProcess, check, cvd

BLOCK = 4096
FILES = 3
SECONDS = 5


def record(number):
    """One block of the log, unlike any other."""
    return number.to_bytes(8, "little") * (BLOCK // 8)


class Log:
    """A file that grows by a block at a time, each followed by an fsync: .durable of them are there to stay."""

    def __init__(self, path):
        self.path, self.durable, self.ending, self.failed = path, 0, False, None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            with open(self.path, "wb", buffering=0) as file:
                while not self.ending:
                    file.write(record(self.durable))
                    os.fsync(file.fileno())
                    self.durable += 1
        except OSError as error:
            self.failed = error

    def end(self):
        self.ending = True
        self.thread.join()
        assert self.failed is None, self.failed

    @staticmethod
    def judge(path, least):
        """All blocks that were durable are there, and what is there was written."""
        data = path.read_bytes()
        assert len(data) >= least * BLOCK, f"{len(data) // BLOCK} blocks of {least} are there"
        for number in range(least):
            assert data[number * BLOCK:(number + 1) * BLOCK] == record(number), f"block {number} is another"


class Operations:
    """fsx on several files, each in a process of its own."""

    def __init__(self, t, folder):
        self.expected = [t.folder / f"expected{n}" for n in range(FILES)]
        self.children = [subprocess.Popen([sys.executable, fsx.__file__, folder / f"f{n}", str(n), expected],
                                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                          text=True)
                         for n, expected in enumerate(self.expected)]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for child in self.children:
            child.kill()
            child.wait()

    def end(self, t):
        """Each tells how many it did."""
        for child in self.children:
            output, _ = child.communicate(timeout=600)
            t.equal(child.returncode, 0, output)
            assert int(output) > 0, output
            t.log(f"{output.strip()} operations of fsx")

    def judge(self, folder):
        """What is there now is what they left."""
        for n, expected in enumerate(self.expected):
            run("cmp", folder / f"f{n}", expected)


@contextlib.contextmanager
def block_device(t, pool, name):
    """A disk of the pool as a block device."""
    with t.soft_disk(f"cvd pool={pool} name={name}", disk=name) as disk, Export(t, disk.socket) as export, \
            loop_device(t, export.uri) as device:
        yield device


def kill_and_snapshot(t, pool, process, log):
    """The worker again and again, once its supervisor, too. Returns the process, and what was durable at each snapshot."""
    generator, cuts = random.Random(5), {}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or len(cuts) < 5:
        time.sleep(generator.uniform(.2, .8))
        cuts[f"cut{len(cuts)}"] = log.durable
        cvd("snap", f"{pool}/files", "--name", f"cut{len(cuts) - 1}")
        os.kill(process.worker(), signal.SIGKILL)
        if len(cuts) == 4:
            process.kill()
            process = t.use(PoolProcess(pool, t.folder))
    t.log(f"{len(cuts)} kills and snapshots, {log.durable} blocks of the log")
    return process, cuts


@limit(60)
def test_killed(t):
    """What fsx wrote is there, the file system is whole, and each snapshot mounts with all that was durable before it."""
    need_loop_device(t)
    pool = t.folder / "pool"
    cvd("pool", "create", pool, "--size", "2G")
    cvd("create", f"{pool}/files", "--size", "256M")
    process = t.use(PoolProcess(pool, t.folder))
    with block_device(t, pool, "files") as device:
        run("mkfs.ext4", "-q", device)
        with mounted(device, t.folder / "mnt") as folder:
            log = Log(folder / "log")
            with Operations(t, folder) as operations:
                try:
                    process, cuts = kill_and_snapshot(t, pool, process, log)
                finally:
                    log.end()
                operations.end(t)
            operations.judge(folder)
        run("fsck.ext4", "-fn", device)
        run("blockdev", "--flushbufs", device)
        with mounted(device, t.folder / "again") as folder:
            operations.judge(folder)
            Log.judge(folder / "log", log.durable)
    for cut in random.Random(9).sample(list(cuts), 2):
        cvd("label", f"{pool}/files@{cut}")
        cvd("dup", f"{pool}/files@{cut}", f"of-{cut}")
        with block_device(t, pool, f"of-{cut}") as device:
            with mounted(device, t.folder / cut) as folder:
                Log.judge(folder / "log", cuts[cut])
            run("fsck.ext4", "-fn", device)
    process.stop()
    check(pool)
