"""Pools whose space is in the file before it is written: what the file system says of it, and what goes on after an interruption."""

import json
import os
import random
import signal
import subprocess
import time

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.pool import PoolProcess, binary, check, cvd

MIB = 1 << 20


def allocated(pool):
    """Bytes that the file has, about: maps of the file system count, too."""
    return os.stat(pool).st_blocks * 512


def has_holes(pool):
    """Or what was allocated and never written, on file systems that tell."""
    with open(pool, "rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < os.stat(pool).st_size


def info(pool):
    told = json.loads(cvd("pool", "info", pool, "--json"))
    return told["preallocation"], told["preallocated"]


def filled(t, pool):
    """A disk of the pool with random bytes."""
    image = t.folder / "image"
    image.write_bytes(random.Random(3).randbytes(16 * MIB))
    cvd("create", f"{pool}/disk", "--size", "16M")
    cvd("fill", f"{pool}/disk", image)
    return image


@limit(60)
def test_files(t):
    """Made so, grown, and given back; deleting gives nothing to the file system before that."""
    for how in ("falloc", "full"):
        pool = t.folder / how
        cvd("pool", "create", pool, "--size", "64M", "--preallocation", how)
        t.equal(info(pool), (how, 64 * MIB))
        assert allocated(pool) >= 64 * MIB, f"{how}: only {allocated(pool)} bytes are there"
        image = filled(t, pool)
        cvd("delete", f"{pool}/disk")
        cvd("pool", "grow", pool, "--size", "96M")
        t.equal(info(pool), (how, 96 * MIB))
        assert allocated(pool) >= 96 * MIB, f"{how}: only {allocated(pool)} bytes are there after it grew"
        if how == "full":
            assert not has_holes(pool), "some of it was not written"
        filled(t, pool)
        check(pool)
        told = json.loads(cvd("pool", "preallocation", pool, "off", "--json"))
        t.equal((told["preallocation"], told["preallocated"]), ("off", 0))
        assert allocated(pool) < 32 * MIB, f"{how}: {allocated(pool)} bytes were not given back"
        cvd("export", f"{pool}/disk", t.folder / "copy")
        t.equal((t.folder / "copy").read_bytes(), image.read_bytes())
        (t.folder / "copy").unlink()
        check(pool)
    assert "is not off" in cvd("pool", "preallocation", pool, "much", status=2)


@limit(60)
def test_interrupted(t):
    """A command that is killed leaves a pool, and the command goes on with it; so does the process that serves the pool, killed or not."""
    pool = t.folder / "pool"
    with subprocess.Popen([binary(), "pool", "create", pool, "--size", "256M", "--preallocation", "full"]) as child:
        wait_for("some of it, and not the journal alone", lambda: pool.exists() and allocated(pool) > 48 * MIB)
        child.kill()
    if child.returncode == -signal.SIGKILL:
        how, done = info(pool)
        t.log(f"{how}: {done} bytes were told, {allocated(pool)} there")
        assert how == "full" and done < 256 * MIB
    told = json.loads(cvd("pool", "preallocation", pool, "full", "--json"))
    t.equal(told["preallocated"], 256 * MIB)
    assert not has_holes(pool), "some of it was not written"
    cvd("pool", "preallocation", pool, "off")
    image = filled(t, pool)
    process = t.use(PoolProcess(pool, t.folder))
    t.equal(json.loads(cvd("pool", "preallocation", pool, "full", "--json"))["preallocation"], "full")
    disk = t.soft_disk(f"cvd pool={pool} name=disk")
    time.sleep(.2)
    os.kill(process.worker(), signal.SIGKILL)
    t.equal(disk.bench("--rw", "randread", "--time", "500ms")["errors"], 0)
    wait_for("the rest of it", lambda: info(pool) == ("full", 256 * MIB), timeout=600)
    assert allocated(pool) >= 256 * MIB, f"only {allocated(pool)} bytes are there"
    cvd("export", f"{pool}/disk", t.folder / "copy")
    t.equal((t.folder / "copy").read_bytes(), image.read_bytes())
    check(pool)
    disk.stop()
    process.stop()
    check(pool)
