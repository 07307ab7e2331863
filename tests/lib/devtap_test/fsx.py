"""Random operations on one file of a file system, each compared with a model in memory, in the manner of fsx.

    fsx.py FILE SEED EXPECTED

Until standard input ends: then EXPECTED gets what FILE must hold, durably. A mismatch is told with the operations before it.
"""

import collections
import ctypes
import mmap
import os
import random
import select
import sys

MOST = 2 << 20  # the file's size
LONGEST = 128 << 10  # of an operation
KEEP_SIZE, PUNCH, COLLAPSE, ZERO = 1, 2, 8, 16  # of fallocate(2)
_libc = ctypes.CDLL(None, use_errno=True)


class Mismatch(Exception):
    """The file does not hold what was written to it."""


class Fsx:
    """The file and its model."""

    def __init__(self, path, seed):
        self.path, self.random = path, random.Random(seed)
        self.model = bytearray()
        self.past = collections.deque(maxlen=20)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.count = 0
        self.operations = [self.write] * 6 + [self.read] * 6 + [self.write_mapped, self.read_mapped] * 2 + [
            self.truncate, self.punch, self.zero, self.collapse, self.sync, self.reopen, self.rename, self.forget]

    def range(self, end):
        """An offset and a length below `end`, often of whole blocks."""
        at = self.random.randrange(end)
        n = self.random.randint(1, min(LONGEST, end - at))
        if self.random.random() < .5:
            at, n = at & -4096, (n + 4095) & -4096
        return at, min(n, end - at)

    def extend(self, end):
        self.model.extend(bytes(max(0, end - len(self.model))))

    def write(self):
        at, n = self.range(MOST)
        self.extend(at)
        self.model[at:at + n] = data = self.random.randbytes(n)
        while data:
            done = os.pwrite(self.fd, data, at)
            data, at = data[done:], at + done

    def compare(self, at, found):
        expected = self.model[at:at + len(found)]
        if found != expected:
            first = next(i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1])
            raise Mismatch(f"{self.path}: byte {at + first} is {found[first]}, not {expected[first]}; before: "
                           f"{list(self.past)}")

    def read(self):
        if not self.model:
            return
        at, n = self.range(len(self.model))
        found = os.pread(self.fd, n, at)
        if len(found) != n:
            raise Mismatch(f"{self.path}: {len(found)} bytes, not {n}, from {at} on")
        self.compare(at, found)

    def mapped(self, access):
        return mmap.mmap(self.fd, len(self.model), access=access)

    def read_mapped(self):
        if not self.model:
            return
        at, n = self.range(len(self.model))
        with self.mapped(mmap.ACCESS_READ) as memory:
            self.compare(at, memory[at:at + n])

    def write_mapped(self):
        if not self.model:
            return
        at, n = self.range(len(self.model))
        self.model[at:at + n] = data = self.random.randbytes(n)
        with self.mapped(mmap.ACCESS_WRITE) as memory:
            memory[at:at + n] = data

    def truncate(self):
        size = self.random.randrange(MOST)
        os.ftruncate(self.fd, size)
        del self.model[size:]
        self.extend(size)

    def fallocate(self, mode, at, n):
        if _libc.fallocate(self.fd, mode, ctypes.c_long(at), ctypes.c_long(n)):
            raise OSError(ctypes.get_errno(), f"fallocate mode {mode}: {os.strerror(ctypes.get_errno())}")

    def punch(self):
        if self.model:
            at, n = self.range(len(self.model))
            self.fallocate(PUNCH | KEEP_SIZE, at, n)
            self.model[at:at + n] = bytes(n)

    def zero(self):
        at, n = self.range(MOST)
        self.fallocate(ZERO, at, n)
        self.extend(at + n)
        self.model[at:at + n] = bytes(n)

    def collapse(self):
        blocks = len(self.model) // 4096
        if blocks < 2:
            return
        at = self.random.randrange(blocks - 1)
        n = self.random.randint(1, min(16, blocks - 1 - at))
        self.fallocate(COLLAPSE, at * 4096, n * 4096)
        del self.model[at * 4096:(at + n) * 4096]

    def sync(self):
        self.random.choice((os.fsync, os.fdatasync))(self.fd)

    def reopen(self):
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def rename(self):
        os.rename(self.path, f"{self.path}.other")
        os.rename(f"{self.path}.other", self.path)

    def forget(self):
        """What is read next comes from the disk."""
        os.fdatasync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def step(self):
        operation = self.random.choice(self.operations)
        self.past.append(operation.__name__)
        operation()
        self.count += 1
        if os.fstat(self.fd).st_size != len(self.model):
            raise Mismatch(f"{self.path}: {os.fstat(self.fd).st_size} bytes, not {len(self.model)}: {list(self.past)}")

    def end(self, expected):
        os.fsync(self.fd)
        with open(expected, "wb") as file:
            file.write(self.model)


def main():
    path, seed, expected = sys.argv[1:]
    load = Fsx(path, int(seed))
    while not select.select([sys.stdin], [], [], 0)[0]:
        load.step()
    load.end(expected)
    print(load.count)


if __name__ == "__main__":
    main()
