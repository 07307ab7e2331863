"""The file system of a pool gets full: its disks wait, nothing fails, and whatever gives space brings them back."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import time

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.load import Load
from devtap_test.nbdkit import run
from devtap_test.pool import PoolProcess, check, cvd

MIB = 1 << 20
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_REMOUNT = 0x20000, 0x4000, 1 << 18, 32
_libc = ctypes.CDLL(None, use_errno=True)


class SmallFolder:
    """A folder with a file system of its own, which only the test's processes see."""

    def __init__(self, t, mib):
        self.t, self.path = t, t.folder / "small"
        self.path.mkdir()
        if (_libc.unshare(CLONE_NEWNS) < 0 or
                _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) < 0):
            t.skip(f"cannot have mounts of its own: {os.strerror(ctypes.get_errno())}")
        self.make(mib)

    def fill(self, name, mib):
        """A file of somebody else."""
        (self.path / name).write_bytes(os.urandom(mib * MIB))


class Tmpfs(SmallFolder):
    """In memory."""

    def mount(self, mib, flags):
        if _libc.mount(b"tmpfs", str(self.path).encode(), b"tmpfs", flags, f"size={mib}m".encode()) < 0:
            self.t.skip(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")

    def make(self, mib):
        self.mount(mib, 0)

    def grow(self, mib):
        self.mount(mib, MS_REMOUNT)


class Ext4(SmallFolder):
    """On a loop device."""

    def make(self, mib):
        if not os.path.exists("/dev/loop-control") or os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
            self.t.skip("needs root, loop devices and mkfs.ext4")
        image = self.t.folder / "image.ext4"
        with open(image, "xb") as file:
            file.truncate(256 * MIB)
        run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        self.device = run("losetup", "--find", "--show", image).strip()
        run("mount", self.device, self.path)
        found = os.statvfs(self.path)
        with open(self.path / "rest", "xb") as file:
            os.posix_fallocate(file.fileno(), 0, found.f_bfree * found.f_bsize - mib * MIB)

    def grow(self, _mib):
        os.unlink(self.path / "rest")


@contextlib.contextmanager
def folder_of(t, kind, mib):
    """The folder, and its end."""
    folder = kind(t, mib)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder.path], check=False)
        if hasattr(folder, "device"):
            subprocess.run(["losetup", "--detach", folder.device], check=False)


def make_pool(t, folder):
    """With 8 MiB of data in a disk that can go, and two small disks beside it."""
    pool = folder.path / "pool"
    cvd("pool", "create", pool, "--size", "160M")
    (t.folder / "data").write_bytes(os.urandom(8 * MIB))
    cvd("create", f"{pool}/ballast", "--size", "16M")
    cvd("fill", f"{pool}/ballast", t.folder / "data")
    for name in ("one", "two"):
        cvd("create", f"{pool}/{name}", "--size", "48M")
    return pool


def cpu_seconds(pid):
    """That a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rests(t, process):
    """What waits does so without being looked at all the time."""
    pid = process.worker()
    begin, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(1.0)
    used, waited = cpu_seconds(pid) - before, time.monotonic() - begin
    t.log(f"{used:.2f} s of CPU in {waited:.2f} s of waiting")
    assert used < waited / 2, f"{used} s of CPU in {waited} s of waiting"


def wait_full(disk, count):
    """Until the disk has told `count` times that the file system is full."""
    found = wait_for("the event", lambda: disk.events("full")[count - 1:])
    assert "the file system of" in found[0]["text"], found


def wait_full_pool(process, count):
    """Until the pool's process has said so `count` times: a disk that comes back later has missed it."""
    wait_for("the pool to be full", lambda: process.output().count("is full: writes wait") >= count)


def full_and_back(t, kind):
    """Two disks under verified load until nothing goes any more; kills; then space, from everywhere."""
    with folder_of(t, kind, 44) as folder:
        folder.fill("other", 4)
        pool = make_pool(t, folder)
        process = t.use(PoolProcess(pool, t.folder))
        disks = [t.soft_disk(f"cvd pool={pool} name={name}", disk=name) for name in ("one", "two")]
        loads = [Load(t, disk, 3600, "--sleep", "--depth", "8", "--size", "16K") for disk in disks]
        for disk in disks:
            wait_full(disk, 1)
        rests(t, process)
        t.equal(check(pool)["served"], True)
        for turn in range(3):  # a successor opens it where there is nothing to be had
            os.kill(process.worker(), 9)
            wait_full_pool(process, turn + 2)
        for disk in disks:
            wait_for("both disks", disk.attached)
        os.unlink(folder.path / "other")
        wait_for("the writes to go on", lambda: "has space again" in process.output())
        wait_full_pool(process, 5)
        cvd("delete", f"{pool}/ballast")
        wait_for("the writes to go on", lambda: process.output().count("has space again") > 1)
        os.kill(process.worker(), 9)
        folder.grow(240)
        time.sleep(1.5)
        assert all(load.running() for load in loads), "a load has ended"
        for load in loads:
            load.stop(t)
        check(pool)
        for disk in disks:
            disk.stop()
        process.stop()
        check(pool)


@limit(90)
def test_tmpfs(t):
    """Where space is memory."""
    full_and_back(t, Tmpfs)


@limit(90)
def test_ext4(t):
    """Where space is allocated late, and tells what was not written."""
    full_and_back(t, Ext4)


@limit(60)
def test_local(t):
    """A confined worker that has the pool itself dies while it is full; its successor looks for space that the pool has."""
    with folder_of(t, Ext4, 40) as folder:
        folder.fill("other", 4)
        pool = make_pool(t, folder)
        disk = t.soft_disk(f"cvd-local pool={pool} name=one")
        load = Load(t, disk, 3600, "--sleep", "--depth", "8", "--size", "16K")
        wait_full(disk, 1)
        disk.kill_worker()
        wait_full(disk, 2)
        os.unlink(folder.path / "other")
        wait_for("the writes to go on", lambda: disk.events("resumed"))
        folder.grow(200)
        time.sleep(1.0)
        load.stop(t)
        disk.stop()
        check(pool)


def alone(t, kind):
    """Nobody serves the pool: commands say what is the matter, and deleting helps."""
    with folder_of(t, kind, 24) as folder:
        pool = make_pool(t, folder)
        (t.folder / "image").write_bytes(os.urandom(40 * MIB))
        told = cvd("fill", f"{pool}/one", t.folder / "image", status=1)
        assert f"the file system of {pool} is full" in told, told
        with contextlib.suppress(OSError):
            folder.fill("other", 24)
        cvd("sync", pool)
        check(pool)
        t.equal((folder.path / "pool").stat().st_size, 160 * MIB)
        cvd("create", f"{pool}/more", "--size", "1M")
        cvd("snap", f"{pool}/two", "--name", "s")
        cvd("label", f"{pool}/two@s")
        told = cvd("dup", f"{pool}/two@s", "many", "--count", 200000, status=1)
        assert "full" in told, told
        t.equal(cvd("list", pool).count("\n"), 5)
        before = os.statvfs(folder.path).f_bfree
        cvd("delete", f"{pool}/ballast")
        assert os.statvfs(folder.path).f_bfree > before, "nobody else has got anything of it"
        check(pool)


@limit(60)
def test_alone_tmpfs(t):
    """In memory."""
    alone(t, Tmpfs)


@limit(60)
def test_alone_ext4(t):
    """On ext4."""
    alone(t, Ext4)
