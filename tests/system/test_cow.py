"""Overlays and checksums under real guests, with workers that are killed: nobody may notice."""

import hashlib
import json
import os
import random

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, kernel_errors
from devtap_test.softdisk import conforms, tool

MIB = 1 << 20
KILLS = int(os.environ.get("DEVTAP_COW_KILLS", "5"))


def base_image(t, size):
    """A base with content, and its hash."""
    path = t.folder / "base.img"
    content = random.Random(2).randbytes(MIB) * (size // MIB)
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


@limit(300)
def test_cow_killed(t):
    """fio verifies on an overlay while workers die; the base stays, and a commit has it all."""
    base, before = base_image(t, 64 * MIB)
    overlay = t.folder / "vm.cow"
    disk = t.soft_disk(f"cow overlay={overlay} create=on base-id=b1 | file path={base} read-only=on")
    guest = t.guest([Disk(disk.socket)])
    load = VerifiedLoad(guest, offset=4096)
    load.survives_kills(disk, KILLS)
    load.finish()
    t.equal(kernel_errors(guest), "")
    guest.check("dd if=/dev/vda bs=1M of=/tmp/all iflag=direct && blockdev --flushbufs /dev/vda")
    seen = guest.check("sha256sum </tmp/all").split()[0]
    assert "in use" in tool("cow", "check", overlay, status=4)
    t.log(f"{KILLS} kills; {disk.stats()['cow']['counters']}")
    guest.close()
    disk.stop()
    t.equal(hashlib.sha256(base.read_bytes()).hexdigest(), before, "the base")
    tool("cow", "check", overlay)
    tool("cow", "commit", overlay, base)
    t.equal(hashlib.sha256(base.read_bytes()).hexdigest(), seen, "the base with the overlay's")
    tool("cow", "reset", overlay)
    t.equal(json.loads(tool("cow", "info", "--json", overlay))["held"], 0)


@limit(300)
def test_integrity_killed(t):
    """fio verifies above checksums while workers die; no false alarm, and damage is found."""
    image, sums = t.sparse_file(64 * MIB), t.folder / "vm.sums"
    disk = t.soft_disk(f"integrity sums={sums} create=on regions=4 | file path={image}")
    guest = t.guest([Disk(disk.socket)])
    load = VerifiedLoad(guest)
    load.survives_kills(disk, KILLS)
    load.finish()
    guest.check("dd if=/dev/urandom of=/dev/vda bs=1M count=1 seek=60 oflag=direct conv=fsync")
    t.equal(kernel_errors(guest), "")
    assert "event=damaged" not in disk.output(), disk.output()
    with open(image, "r+b") as file:
        file.seek(60 * MIB + 5000)
        byte = file.read(1)
        file.seek(60 * MIB + 5000)
        file.write(bytes([byte[0] ^ 1]))
    assert guest.run("dd if=/dev/vda of=/dev/null bs=4k count=1 skip=15361 iflag=direct")[0] != 0
    wait_for("the event", lambda: f"damaged device=vm1 layer=integrity: the block at byte "
             f"{60 * MIB + 4096} " in disk.output())
    guest.close()
    disk.stop()
    text = tool("integrity", "check", sums, image, status=6)
    assert f"damaged: the block at byte {60 * MIB + 4096} (sector 122888)" in text, text


@limit(120)
def test_conformance(t):
    """What devtap promises of every layer."""
    conforms(f"cow overlay={t.folder}/{{}}.cow create=on | readonly",
             f"integrity sums={t.folder}/{{}}.sums create=on")
