"""The file of a pool, read as devtap-pool(5) tells, and bits of it that rot."""

import os
import struct

BLOCK = 4096
FANOUT = 256
DISK = 1


class PoolFile:
    """What the newest root reaches. It may move while the pool is served."""

    def __init__(self, path):
        self.path = path

    def block(self, number):
        """The contents of a block."""
        with open(self.path, "rb") as file:
            file.seek(number * BLOCK)
            return file.read(BLOCK)

    def flip(self, number):
        """One bit of a block turns over."""
        assert number
        with open(self.path, "r+b") as file:
            file.seek(number * BLOCK + 1234)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 16]))

    def find(self, content):
        """The number of the block that holds this."""
        for number in range(os.stat(self.path).st_size // BLOCK):
            if self.block(number) == content:
                return number
        raise AssertionError("it is nowhere")

    def root(self):
        """The newest root: its number, and the trees of catalogue and free maps as (address, levels)."""
        roots = [self.block(number) for number in range(1, 9)]
        block = max((b for b in roots if b[:6] == b"PXroot"), key=lambda b: b[32:40][::-1])
        levels = block[112:114]
        return {"number": struct.unpack_from("<Q", block, 32)[0],
                "slots": struct.unpack_from("<Q", block, 72)[0],
                "catalogue": (_address(block, 80), levels[0]),
                "free maps": (_address(block, 96), levels[1])}

    def at(self, tree, index, level):
        """Where a tree has what it maps an index to (level 0), or the node above it."""
        address, levels = tree
        for l in range(levels, level, -1):
            address = _address(self.block(address), index // FANOUT ** (l - 1) % FANOUT * 16)
        return address

    def disk(self, name):
        """The tree of a disk."""
        root = self.root()
        for slot in range(root["slots"]):
            record = self.block(self.at(root["catalogue"], slot // 16, 0))[slot % 16 * 256:][:256]
            if (record[0], record[128:192].rstrip(b"\0")) == (DISK, name.encode()):
                return _address(record, 32), record[100]
        raise AssertionError(f"there is no disk {name}")


def _address(block, offset):
    return int.from_bytes(block[offset:offset + 5], "little")
