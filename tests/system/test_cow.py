"""Overlays and checksums under real guests, with workers that are killed: nobody may notice."""

import hashlib
import json
import os
import random
import signal
import subprocess
import time

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, kernel_errors
from devtap_test.softdisk import SoftDisk

MIB = 1 << 20
KILLS = int(os.environ.get("DEVTAP_COW_KILLS", "5"))


def worker(disk):
    """The process id of the worker, once it serves."""
    def ask():
        try:
            return json.loads(disk.devtap("show", "--json", disk.disk)).get("worker")
        except RuntimeError:
            return None
    return wait_for("a worker", ask)


def kill_workers(disk, load, kills):
    """At random moments of a guest's load, which must go on each time."""
    generator = random.Random(1)
    for _ in range(kills):
        time.sleep(generator.uniform(0.05, 0.5))
        os.kill(worker(disk), signal.SIGKILL)
        load.goes_on()
        load.check("after a kill")


def base_image(t, size):
    """A base with content, and its hash."""
    path = t.folder / "base.img"
    content = random.Random(2).randbytes(MIB) * (size // MIB)
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def tool(*arguments, status=0):
    """Runs devtap without a running disk; returns what it says."""
    done = subprocess.run([SoftDisk.binary(), *map(str, arguments)], text=True, timeout=60,
                          capture_output=True, check=False)
    assert done.returncode == status, f"{arguments}: status {done.returncode}: {done.stderr}"
    return done.stdout + done.stderr


@limit(300)
def test_cow_killed(t):
    """fio verifies on an overlay while workers die; the base stays, and a commit has it all."""
    base, before = base_image(t, 64 * MIB)
    overlay = t.folder / "vm.cow"
    disk = t.soft_disk(f"cow overlay={overlay} create=on base-id=b1 | file path={base} read-only=on")
    guest = t.guest([Disk(disk.socket)])
    load = VerifiedLoad(guest, offset=4096)
    kill_workers(disk, load, KILLS)
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
    kill_workers(disk, load, KILLS)
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
    """What devtap promises of every layer, each property with files of its own."""
    skipped = ("state", "threads", "kill")  # nothing to save, one thread, disks of two sizes
    listed = [line.split()[0] for line in tool("test", "--list").splitlines() if line.strip()]
    for number, name in enumerate(n for n in listed if n not in skipped):
        tool("test", "--duration", "200ms", "--property", name,
             f"cow overlay={t.folder}/{number}.cow create=on | readonly")
        tool("test", "--duration", "200ms", "--property", name,
             f"integrity sums={t.folder}/{number}.sums create=on")
