"""Writes of zeroes by a real guest."""

import os

MIB = 1 << 20


def test_image_stays_sparse(t):
    """A wiped disk takes no space, and what is not zero is there."""
    image = t.sparse_file(64 * MIB)
    disk = t.soft_disk(f"zero | file path={image}")
    guest = t.guest([disk.socket])
    guest.check("dd if=/dev/urandom of=/tmp/a bs=64k count=16 2>/dev/null; "
                "dd if=/tmp/a of=/dev/vda bs=64k oflag=direct 2>/dev/null; "
                "dd if=/dev/zero of=/dev/vda bs=64k seek=16 count=512 oflag=direct 2>/dev/null")
    guest.check("cmp -n 1048576 /tmp/a /dev/vda; "
                "dd if=/dev/vda bs=64k skip=16 count=512 2>/dev/null | cmp -n 33554432 - /dev/zero")
    counters = disk.stats()["zero"]["counters"]
    t.equal(counters["turned-bytes"], 32 * MIB)
    used = os.stat(image).st_blocks * 512
    assert MIB <= used < 3 * MIB, f"the image takes {used} bytes"
