"""A running disk moves to another back; a shadow works beside it; a rear is detached and attached again."""

import json
import re
import subprocess
import time

from devtap_test import Disk, SoftDisk, StorageDaemon, wait_for
from devtap_test.case import limit
from devtap_test.change import show
from devtap_test.load import Load, VerifiedLoad, kernel_errors
from devtap_test.softdisk import conforms

MIB = 1 << 20
SIZE = 96 * MIB
UNDER_WAY = 16 * MIB  # regions in which writes may be under way at a kill, and more


def refused(disk, *words):
    """Runs what must fail; returns what it says."""
    done = subprocess.run([disk.binary(), *words], env=disk.environment, text=True,
                          capture_output=True, check=False, timeout=120)
    assert done.returncode, f"{words}: not refused: {done.stdout}"
    return done.stderr


def back(disk):
    """What the disk stands on."""
    return show(disk)["chain"][-1]


def status(disk, kind):
    """Of the copy or shadow, once there is a worker to tell."""
    def ask():
        try:
            return disk.do_json(kind, "status")
        except RuntimeError:
            return None
    return wait_for("a status", ask)


def filled(t, name):
    """An image with something in each region."""
    image = t.sparse_file(SIZE, name)
    with open(image, "r+b") as file:
        for at in range(0, SIZE, 64 << 10):
            file.seek(at)
            file.write(at.to_bytes(8, "little") * 512)
    return image


def same(one, other):
    """Do two images hold the same?"""
    with open(one, "rb") as a, open(other, "rb") as b:
        while True:
            x, y = a.read(MIB), b.read(MIB)
            if x != y:
                return False
            if not x:
                return True


@limit(300)
def test_guest(t):
    """A guest with verified load moves twice and notices nothing; the disk is no longer where it was."""
    images = [filled(t, "a.img"), t.sparse_file(SIZE, "b.img"), t.sparse_file(SIZE, "c.img")]
    disk = t.soft_disk(f"throttle iops=1M | file path={images[0]}")
    guest = t.guest([Disk(disk.socket)])
    load = VerifiedLoad(guest)
    load.goes_on()
    for image in images[1:]:
        said = disk.devtap("move-back", "vm1", f"file path={image}", timeout=600)
        assert f"path={image}" in said, said
        load.goes_on()
    t.equal(back(disk)["parameters"]["path"], str(images[2]))
    load.finish()
    guest.check("mkfs.ext4 -q -F /dev/vda 64M && e2fsck -f -n /dev/vda")
    t.equal(kernel_errors(guest), "")
    guest.close()
    assert not same(images[1], images[2]), "the disk is still written where it was"


@limit(300)
def test_kills(t):
    """Workers of two threads are killed all the while, and the copying goes on; when the move is over, nothing is lost."""
    disk = t.soft_disk(f"file path={filled(t, 'a.img')}", options=("--threads", "2", "--threads-per-disk", "2"))
    load = Load(t, disk, 3600, "--depth", "32", "--queues", "2")
    time.sleep(0.5)
    new = t.sparse_file(SIZE, "b.img")
    disk.devtap("move-back", "--background", "--rate", "40M", "vm1", f"file path={new}")
    kills = 0
    for share in (0.9, 0.7, 0.5):
        before = wait_for("the copying to go on", lambda most=SIZE * share: left(disk, most))
        disk.kill_worker()
        kills += 1
        after = left(disk)
        t.log(f"{before >> 20} MiB left before a kill, {after >> 20} after it")
        assert after < before + UNDER_WAY, (before, after)
    mover = subprocess.Popen([disk.binary(), "move-back", "--rate", "0", "--json", "vm1"],
                             env=disk.environment, stdout=subprocess.PIPE, text=True)
    while mover.poll() is None:
        time.sleep(0.9)
        disk.kill_worker()
        kills += 1
        if status_or_none(disk) is None:
            break
        time.sleep(1.5 * kills)  # a slow machine shall come to an end
    said, _ = mover.communicate(timeout=600)
    t.equal(mover.returncode, 0, said)
    copied = int(re.search(r"(\d+) MiB copied", disk.events("in-step")[-1]["text"])[1])
    t.log(f"{copied} MiB of {SIZE >> 20} copied, {kills} kills")
    assert copied < SIZE + kills * UNDER_WAY >> 20, copied
    t.equal(back(disk)["parameters"]["path"], str(new))
    disk.kill_worker()
    t.equal(back(disk)["parameters"]["path"], str(new))
    load.stop(t, after=2)


def left(disk, most=SIZE):
    """The bytes that are still to be copied, or None if it is more."""
    said = status(disk, "copy")["bytes-left"]
    return said if said <= most else None


def status_or_none(disk):
    """Of a copy that may be over."""
    try:
        return disk.do_json("copy", "status")
    except RuntimeError:
        return None


@limit(300)
def test_abort_and_refusals(t):
    """What cannot be is said before anything is copied; a move that is given up leaves the disk."""
    old = filled(t, "a.img")
    disk = t.soft_disk(f"file path={old}", more={"vm2": "mem size=64M"})
    load = Load(t, disk, 600)
    time.sleep(0.3)
    small, new = t.sparse_file(MIB, "small.img"), t.sparse_file(SIZE, "b.img")
    assert "1048576 bytes" in refused(disk, "move-back", "vm1", f"file path={small}")
    assert "does not exist" in refused(disk, "move-back", "vm1", f"file path={t.folder}/none.img")
    assert "is in use" in refused(disk, "move-back", "vm1", f"file path={old}")
    assert "is gone" in refused(disk, "move-back", "vm1", f"mem size={SIZE}")
    assert "not being moved" in refused(disk, "move-back", "--abort", "vm1")
    t.equal([layer["name"] for layer in show(disk)["chain"]], ["file"])
    disk.devtap("move-back", "--background", "--rate", "256K", "vm1", f"file path={new}")
    assert "already" in refused(disk, "move-back", "vm1", f"file path={new}")
    left = json.loads(disk.devtap("move-back", "--status", "--json", "vm1"))["bytes-left"]
    assert left > SIZE // 2, left
    disk.devtap("upgrade", "vm1")
    wait_for("the copying to go on",
             lambda: json.loads(disk.devtap("move-back", "--status", "--json", "vm1"))["bytes-copied"] > 0)
    disk.devtap("move-back", "--abort", "vm1")
    t.equal(back(disk)["parameters"]["path"], str(old))
    load.stop(t, after=1)


@limit(300)
def test_single(t):
    """One process: the same, in place."""
    old, new = filled(t, "a.img"), t.sparse_file(SIZE, "b.img")
    disk = t.soft_disk(f"file path={old}", options=("--single",))
    load = Load(t, disk, 600)
    time.sleep(0.3)
    disk.devtap("move-back", "vm1", f"file path={new}", timeout=600)
    t.equal(back(disk)["parameters"]["path"], str(new))
    load.stop(t, after=1)


@limit(300)
def test_shadow(t):
    """A shadow that lags behind, is compared, and promoted; one that lies is not, and is dropped."""
    old, new, other = filled(t, "a.img"), t.sparse_file(SIZE, "b.img"), filled(t, "c.img")
    disk = t.soft_disk(f"throttle iops=1M | file path={old}")
    load = Load(t, disk, 3600, "--depth", "32")
    time.sleep(0.3)
    disk.devtap("shadow", "--copy", "--rate", "0", "vm1", f"delay time=200us | file path={new}")
    wait_for("comparisons", lambda: status(disk, "shadow")["compared"] > 100)
    seen = status(disk, "shadow")
    t.log(json.dumps(seen))
    t.equal(seen["mismatches"], 0, seen)
    assert seen["shadow-read-p99-ns"] > 0 and seen["disk-read-p99-ns"] > 0, seen
    disk.devtap("shadow", "--promote", "vm1", timeout=600)
    t.equal([layer["name"] for layer in show(disk)["chain"]], ["delay", "file#2"])
    with open(other, "r+b") as file:
        for at in range(0, SIZE, MIB // 2):
            file.seek(at)
            file.write(bytes([at // MIB + 1]) * (MIB // 2))
    load.stop(t, after=1)
    disk.devtap("shadow", "vm1", f"file path={other}")
    reads = Load(t, disk, 600)
    wait_for("mismatches", lambda: status(disk, "shadow")["mismatches"] > 0)
    reads.stop(t, after=2)
    assert "answered differently" in refused(disk, "shadow", "--promote", "vm1")
    disk.devtap("shadow", "--drop", "vm1")
    t.equal(back(disk)["parameters"]["path"], str(new))


@limit(300)
def test_intercept(t):
    """From a rear to a back of ours and back again, copied each time, under a guest's load."""
    image, own = t.sparse_file(SIZE, "rear.img"), t.sparse_file(SIZE, "own.img")
    daemon = t.use(StorageDaemon(image, t.folder))
    rear = f"vhost-user path={daemon.socket} on-rear-loss=fail"
    disk = t.soft_disk(f"throttle iops=1M | {rear}")
    guest = t.guest([Disk(disk.socket)])
    load = VerifiedLoad(guest)
    load.goes_on()
    target = f"file path={own}"
    assert "--copy" in refused(disk, "mode", "vm1", "intercept", target)
    assert "which BACK" in refused(disk, "mode", "--copy", "vm1", "intercept")
    disk.devtap("mode", "vm1", "passthrough")
    t.equal(disk.devtap("mode", "--copy", "vm1", "intercept", target, timeout=600).strip(), "intercept")
    t.equal(show(disk)["rear"], rear)
    t.equal(show(disk)["front"]["mode"], "intercept")
    load.goes_on()
    disk.kill_worker()
    t.equal(show(disk)["front"]["mode"], "intercept")
    assert "detached" in refused(disk, "mode", "vm1", "passthrough")
    assert "--copy" in refused(disk, "mode", "vm1", "interpose")
    load.goes_on()
    t.equal(disk.devtap("mode", "--copy", "vm1", "interpose", timeout=600).strip(), "interpose")
    assert "rear" not in show(disk), show(disk)
    load.goes_on()
    t.equal(disk.devtap("mode", "vm1", "passthrough").strip(), "passthrough")
    load.goes_on()
    t.equal(disk.devtap("mode", "vm1", "interpose").strip(), "interpose")
    load.finish()
    t.equal(kernel_errors(guest), "")
    assert not same(image, own), "the rear did not get what was written after it was attached"


@limit(120)
def test_intercept_compared(t):
    """The first sector that differs is told; else equal because it was compared, under a load, with a worker killed."""
    image, own = filled(t, "rear.img"), filled(t, "own.img")
    with open(own, "r+b") as file:
        for sector in (100003, 150000):
            file.seek(512 * sector + 100)
            file.write(b"other")
    rear = t.soft_disk(f"file path={image}", disk="rear")
    disk = t.soft_disk(f"vhost-user path={rear.socket}", disk="tap")
    target = f"file path={own}"
    assert "exclude each other" in refused(disk, "mode", "--copy", "--compare", "tap", "intercept", target)
    assert "first in sector 100003" in refused(disk, "mode", "--compare", "tap", "intercept", target)
    t.equal([layer["name"] for layer in show(disk)["chain"]], ["vhost-user"])
    with open(own, "r+b") as file, open(image, "rb") as right:
        file.write(right.read())
    disk.devtap("move-back", "--compare", "--background", "--rate", "1M", "tap", target)
    load = Load(t, disk, 600)
    time.sleep(1)
    t.equal(status(disk, "copy")["state"], "comparing")
    disk.kill_worker()
    disk.devtap("move-back", "--rate", "0", "tap", timeout=600)
    t.equal(disk.devtap("mode", "tap").strip(), "intercept")
    time.sleep(0.3)
    load.stop(t)
    assert "first in sector" in refused(disk, "mode", "--compare", "tap", "interpose")
    t.equal(disk.devtap("mode", "tap").strip(), "intercept")
    disk.devtap("mode", "--copy", "tap", "interpose", timeout=600)
    t.equal(disk.devtap("mode", "--compare", "tap", "intercept", target, timeout=600).strip(), "intercept")
    t.equal(disk.devtap("mode", "--compare", "tap", "interpose", timeout=600).strip(), "interpose")
    t.equal(back(disk)["name"], "vhost-user")


@limit(120)
def test_intercept_forced(t):
    """Equal because somebody says so; a refused open leaves the rear where it is."""
    rear = t.soft_disk("mem size=64M", disk="rear")
    disk = SoftDisk(f"vhost-user path={rear.socket}", t.folder, disk="tap", name="tap")
    with disk:
        assert "no rear" in refused(rear, "mode", "--force", rear.address, "intercept", "null size=64M")
        assert "does not exist" in refused(disk, "mode", "--force", "tap", "intercept",
                                           f"file path={t.folder}/none.img")
        assert "rear" not in show(disk)
        disk.devtap("mode", "--force", "tap", "intercept", "mem size=64M")
        t.equal(show(disk)["rear"], f"vhost-user path={rear.socket}")
        disk.devtap("mode", "--force", "tap", "interpose")
        t.equal([layer["name"] for layer in show(disk)["chain"]], ["vhost-user"])


@limit(120)
def test_conformance(t):
    """What devtap promises of every layer, while regions are copied."""
    for number in range(20):
        for name in "ab":
            t.sparse_file(64 * MIB, f"{number}{name}")
    both = f"to='file path={t.folder}/{{0}}b' rate=1M | file path={t.folder}/{{0}}a"
    conforms(f"copy {both}", f"shadow content=copy sync=on {both}", skipped=())
