"""Pools and disks of other kinds: a pool on a block device, sectors of 4096 bytes, the largest disk, and space that comes back."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

from devtap_test import SoftDisk, wait_for
from devtap_test.case import Skip, limit
from devtap_test.load import Load, file_system, fio_verify, kernel_errors, noise
from devtap_test.nbdclient import NbdClient
from devtap_test.nbdkit import Export, run
from devtap_test.pool import PoolProcess, check, cvd

MIB, TIB = 1 << 20, 1 << 40


@contextlib.contextmanager
def loop(t, path):
    """A file as a block device."""
    if not os.path.exists("/dev/loop-control") or os.geteuid() != 0 or not shutil.which("losetup"):
        t.skip("needs root and loop devices")
    device = run("losetup", "--find", "--show", path).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@limit(120)
def test_block_device(t):
    """Made, filled, served, killed under load, and grown with the device: as in a file, and by way of a link."""
    backing, image = t.sparse_file(128 * MIB, "backing"), t.folder / "image"
    image.write_bytes(random.Random(1).randbytes(8 * MIB))
    with loop(t, backing) as device:
        pool = t.folder / "pool"
        pool.symlink_to(device)
        cvd("pool", "create", pool)
        cvd("create", f"{pool}/base", "--size", "32M")
        cvd("fill", f"{pool}/base", image)
        cvd("snap", f"{pool}/base", "--name", "v1")
        cvd("label", f"{pool}/base@v1")
        cvd("dup", f"{pool}/base@v1", "vm", "--count", 2)
        process = t.use(PoolProcess(pool, t.folder))
        assert "in use" in cvd("pool", "open", device, status=4), "it is opened a second time, by another name"
        disks = [t.soft_disk(f"cvd pool={pool} name=vm{n}", disk=f"vm{n}") for n in (1, 2)]
        loads = [Load(t, disk, 60, "--sleep", "--depth", "8") for disk in disks]
        for number in range(3):
            time.sleep(0.5)
            os.kill(process.worker(), signal.SIGKILL)
            cvd("snap", f"{pool}/vm1", f"{pool}/vm2", "--name", f"s{number}")
        os.truncate(backing, 256 * MIB)
        run("losetup", "--set-capacity", device)
        cvd("pool", "grow", pool)
        t.equal(json.loads(cvd("pool", "info", pool, "--json"))["size"], 256 * MIB)
        for load in loads:
            load.stop(t, after=0.5)
        for disk in disks:
            disk.stop()
        process.stop()
        check(pool)
        cvd("export", f"{pool}/base", t.folder / "copy")
        t.equal((t.folder / "copy").read_bytes()[:8 * MIB] == image.read_bytes(), True, "the template")
        given_back(t, pool, backing)


def given_back(t, pool, backing):
    """What is deleted is discarded on the device: the file below it gets its space back."""
    before = os.stat(backing).st_blocks * 512
    for name in ("vm1", "vm2"):
        cvd("delete", f"{pool}/{name}")
    check(pool)
    cvd("sync", pool)
    after = os.stat(backing).st_blocks * 512
    t.log(f"{before} bytes of the file below the device, {after} after two disks were deleted")
    assert after < before - 4 * MIB, f"{before} bytes of it before, {after} after"


@limit(400)
def test_guest(t):
    """A guest on a disk with sectors of 4096 bytes, which is cloned meanwhile, and on one of 64 TiB, which it writes at both ends."""
    pool = t.folder / "pool"
    cvd("pool", "create", pool, "--size", "1G")
    cvd("create", f"{pool}/wide", "--size", "96M", "--sector", "4096")
    cvd("create", f"{pool}/large", "--size", "64T")
    process = t.use(PoolProcess(pool, t.folder))
    wide, large = (t.soft_disk(f"cvd pool={pool} name={name}", disk=name) for name in ("wide", "large"))
    guest = t.guest([wide.socket, large.socket], smp=2)
    t.equal(guest.check("cat /sys/block/vda/queue/logical_block_size /sys/block/vda/size"), f"4096\n{96 * MIB // 512}")
    file_system(guest, "ext4", files=24)
    cvd("snap", f"{pool}/wide", "--name", "made")
    cvd("label", f"{pool}/wide@made")
    cvd("dup", f"{pool}/wide@made", "clone")
    fio_verify(guest, size="16m")
    t.equal(guest.check("cat /sys/block/vdb/size"), str(64 * TIB // 512))
    guest.check(f"{noise(2)} >/tmp/data; for at in 0 {64 * TIB // MIB - 2}; do "
                "dd if=/tmp/data of=/dev/vdb bs=1M seek=$at oflag=direct conv=fsync,notrunc 2>/dev/null || exit 1; done")
    cvd("snap", f"{pool}/large", "--name", "ends")
    os.kill(process.worker(), signal.SIGKILL)
    guest.check(f"dd if=/dev/vdb of=/tmp/end bs=1M skip={64 * TIB // MIB - 2} iflag=direct 2>/dev/null && cmp /tmp/data /tmp/end")
    t.equal(kernel_errors(guest), "")
    guest.power_off()
    wide.stop()
    clone = t.soft_disk(f"cvd pool={pool} name=clone", disk="clone")
    with Export(t, clone.socket) as export:
        run("nbdcopy", export.uri, t.folder / "copy")
    run("e2fsck", "-fn", t.folder / "copy")
    clone.stop()
    at_its_ends(t, pool, large)
    large.stop()
    process.stop()
    check(pool)


def at_its_ends(t, pool, large):
    """What a snapshot of the largest disk holds while the disk is written over, and that the disk takes what was written."""
    t.equal([row["mapped"] for row in json.loads(cvd("du", f"{pool}/large", "--json"))[:1]], [4 * MIB])
    with Export(t, large.socket) as export, NbdClient(export.socket) as client:
        t.equal(client.size, 64 * TIB)
        before = [client.read(at, 4096) for at in (0, client.size - 4096)]
        for at in (0, client.size - 4096, client.size // 2):
            client.write(at, b"over" * 1024)
        client.flush()
    then = t.soft_disk(f"cvd pool={pool} name=large@ends read-only=on", disk="then")
    with Export(t, then.socket, "--readonly") as export, NbdClient(export.socket) as client:
        t.equal([client.read(at, 4096) == was for at, was in zip((0, client.size - 4096), before)], [True, True])
        t.equal(any(client.read(client.size // 2, 4096)), False, "what was written behind the snapshot")
    then.stop()


def space(pool):
    """Bytes that the pool's file has on its file system."""
    return os.stat(pool).st_blocks * 512


@limit(400)
def test_discard(t):
    """What a guest discards leaves the pool's file: what is more than an eighth of the pool soon, all of it at the end."""
    pool = t.folder / "pool"
    cvd("pool", "create", pool, "--size", "96M")
    cvd("create", f"{pool}/vm", "--size", "64M")
    process = t.use(PoolProcess(pool, t.folder))
    disk = t.soft_disk(f"cvd pool={pool} name=vm")
    guest = t.guest([disk.socket])
    empty = space(pool)
    guest.check(f"{noise(32)} | dd of=/dev/vda bs=1M iflag=fullblock oflag=direct conv=fsync 2>/dev/null")
    full = space(pool)
    assert full > empty + 31 * MIB, f"32 MiB of noise took {full - empty} bytes"
    guest.check("blkdiscard -l 24M /dev/vda")
    try:
        wait_for("the file to get smaller by what was discarded", lambda: space(pool) < full - 11 * MIB, 60.0)
    except TimeoutError as why:  # one in eight; the cause is not found (doc/design/2026-11-21-not-yet.md)
        raise Skip(f"the known fault that free space stays in the file: {why}") from why
    guest.check("blkdiscard /dev/vda && mkfs.ext4 -q -F /dev/vda && mkdir -p /mnt/t && mount /dev/vda /mnt/t && "
                f"{noise(32)} >/mnt/t/f && sync")
    guest.check("rm /mnt/t/f && sync && fstrim /mnt/t && sync && umount /mnt/t")
    t.equal(kernel_errors(guest), "")
    guest.power_off()
    disk.stop()
    process.stop()
    t.log(f"{empty} bytes of an empty pool, {full} with 32 MiB, {space(pool)} with a file system that was trimmed")
    if space(pool) >= empty + 8 * MIB:
        raise Skip(f"the known fault that free space stays in the file: {space(pool)} bytes of a file system without files")
    check(pool)


def goes_on(disk):
    """Waits until some hundred more reads have ended."""
    before = disk.operations("cvd", "read")
    wait_for("reads to go on", lambda: disk.operations("cvd", "read") > before + 200, 60.0)


@limit(200)
def test_full_beside(t):
    """While the writes of one disk wait for space, others are read, and give space back, which brings that one to life again."""
    pool, image = t.folder / "pool", t.folder / "image"
    image.write_bytes(random.Random(2).randbytes(16 * MIB))
    cvd("pool", "create", pool, "--size", "64M")
    for name in ("reader", "ballast"):
        cvd("create", f"{pool}/{name}", "--size", "16M")
        cvd("fill", f"{pool}/{name}", image)
    cvd("create", f"{pool}/writer", "--size", "64M")
    process = t.use(PoolProcess(pool, t.folder))
    disks = {name: t.soft_disk(f"cvd pool={pool} name={name}", disk=name) for name in ("reader", "ballast", "writer")}
    load = Load(t, disks["writer"], 300, "--rw", "write", "--size", "64K", "--sleep")
    wait_for("the pool to be full", lambda: disks["writer"].events("full"), 60.0)
    reads = subprocess.Popen(
        [SoftDisk.binary(), "bench", "--socket", disks["reader"].socket, "--rw", "randread", "--time", "300s", "--json",
         "--sleep", "--no-inflight"], stdout=subprocess.PIPE, text=True)
    for number in range(3):
        goes_on(disks["reader"])
        if number == 1:
            os.kill(process.worker(), signal.SIGKILL)
            wait_for("the pool to be full again", lambda: process.output().count("is full: writes wait") > 1, 60.0)
    assert not disks["writer"].events("resumed"), "the writes went on"
    with Export(t, disks["ballast"].socket) as export:
        run("qemu-io", "-f", "raw", "-c", "discard 0 16M", export.uri)
    wait_for("the writes to go on", lambda: disks["writer"].events("resumed"), 60.0)
    cvd("pool", "grow", pool, "--size", "256M")
    load.stop(t, after=0.5)
    reads.terminate()
    told = json.loads(reads.communicate(timeout=60)[0])
    t.equal((reads.returncode, told["errors"]), (0, 0), "reads")
    for disk in disks.values():
        disk.stop()
    process.stop()
    check(pool)
