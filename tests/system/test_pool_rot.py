"""Bits of a pool rot, and nobody turns them back: what needs them fails and is named, and nobody else notices."""

import json
import os
import random
import shutil
import signal
import subprocess

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.load import Load
from devtap_test.nbdkit import Export
from devtap_test.pool import PoolProcess, check, cvd
from devtap_test.poolfile import BLOCK, PoolFile

MIB = 1 << 20


def chain(pool, name):
    return f"cvd pool={pool} name={name}"


def make_pool(t, *disks):
    """A pool with disks that hold the same image, nobody serves it."""
    pool, image = t.folder / "pool", t.folder / "image"
    image.write_bytes(random.Random(7).randbytes(8 * MIB))
    cvd("pool", "create", pool, "--size", "512M")
    for name in disks:
        cvd("create", f"{pool}/{name}", "--size", "64M")
        cvd("fill", f"{pool}/{name}", image)
    return pool


def io(export, *commands):
    """Of each command of qemu-io: did it succeed?"""
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", "raw", *words, export.uri], capture_output=True, text=True,
                          timeout=120, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines()
            if "bytes at offset" in line or "failed" in line]
    assert len(said) == len(commands), done
    return ["failed" not in line for line in said]


def damage(disk, *texts):
    """There are events that name these."""
    said = [event["text"] for event in disk.events("damage")]
    for text in texts:
        assert any(text in line for line in said), f"{text}: {said}"


def fails(*words):
    """A command of cvd that must not succeed; what it says."""
    return cvd(*words, status=1)


def kill(process):
    """The pool's worker, which is started again; all that it had in memory is read anew."""
    os.kill(process.worker(), signal.SIGKILL)


def gone(pool):
    """What was deleted is given back."""
    wait_for("the end of deletions",
             lambda: json.loads(cvd("pool", "info", pool, "--json"))["being-deleted"] == 0)


def repair(pool):
    """Makes the free maps anew; nothing is wrong then. What was."""
    told = json.loads(cvd("pool", "check", pool, "--repair", "--json"))
    assert told["findings"] == [], told
    check(pool)
    return told.get("repaired", [])


@limit(90)
def test_maps(t):
    """A leaf of one disk's map, and an inner node of another's: writes, discards, fill, kills, deletion."""
    if not shutil.which("qemu-io"):
        t.skip("no qemu-io here")
    pool = make_pool(t, "a", "c")
    cvd("create", f"{pool}/b", "--size", "64M")
    file = PoolFile(pool)
    leaf, inner = file.at(file.disk("a"), 300, 1), file.at(file.disk("c"), 0, 2)
    file.flip(leaf)
    file.flip(inner)
    process = t.use(PoolProcess(pool, t.folder))
    other = t.soft_disk(chain(pool, "b"), disk="b")
    load = Load(t, other, 3600, "--sleep")
    fails("fill", f"{pool}/a", t.folder / "image")
    disk = t.soft_disk(chain(pool, "a"), disk="a", more={"c": chain(pool, "c")})
    a, c = (t.use(Export(t, disk.sockets[name])) for name in ("a", "c"))
    for _ in range(2):
        t.equal(io(a, "read 0 1M", "read 1M 4k", "write 1M 4k", "discard 0 8M", "write -z 1M 1M",
                   "discard 1M 1M", "write -z 0 64M", "write 3M 1M", "discard 4M 4M"),
                [True, False, False, False, False, False, False, True, True], "disk a")
        t.equal(io(c, "read 0 4k", "write 8M 4k", "discard 0 64M"), [False, False, False], "disk c")
        kill(process)
    damage(disk, f"block {leaf} is damaged", "the map of a at 1048576 bytes", f"block {inner} is damaged")
    for each in (a, c, disk):
        each.stop()
    for name in ("a", "c"):
        assert "a tree cannot be read" in cvd("du", f"{pool}/{name}", status=6)
        cvd("delete", f"{pool}/{name}")
    gone(pool)
    kill(process)
    cvd("create", f"{pool}/a", "--size", "64M")
    cvd("fill", f"{pool}/a", t.folder / "image")
    load.stop(t)
    t.equal(other.events("failed"), [])
    other.stop()
    result = json.loads(cvd("pool", "check", pool, "--json", status=6, parts=True))
    assert result["leaked"] > 0 and result["damaged"] == 0, result
    assert "close" in cvd("pool", "check", pool, "--repair", status=4)
    process.stop()
    assert "free again" in repair(pool)[0]


@limit(90)
def test_recovery(t):
    """The map of a write that was flushed rots before the pool is opened again: that disk is not written any more."""
    if not shutil.which("qemu-io"):
        t.skip("no qemu-io here")
    pool = make_pool(t, "a", "b")
    cvd("snap", f"{pool}/a", "--name", "s")
    file = PoolFile(pool)
    while True:
        process = t.use(PoolProcess(pool, t.folder))
        disk = t.soft_disk(chain(pool, "a"), disk="a", more={"b": chain(pool, "b")})
        a, b = (t.use(Export(t, disk.sockets[name])) for name in ("a", "b"))
        root = file.root()["number"]
        for each in (a, b):
            t.equal(io(each, "write -P 7 1M 64k", "write -P 7 3M 64k"), [True, True])
            cvd("sync", pool)
        process.kill()
        if file.root()["number"] == root:
            break
        disk.kill()  # a root was made meanwhile: once more
    leaf = file.at(file.disk("a"), 256, 1)
    file.flip(leaf)
    process = t.use(PoolProcess(pool, t.folder))
    for comes_round in (True, False):
        t.equal(io(a, "read -P 7 1M 64k", "read -P 7 3M 64k", "read 0 1M", "write 0 4k", "discard 0 1M"),
                [False, True, True, False, False], "disk a")
        t.equal(io(b, "read -P 7 1M 64k", "read -P 7 3M 64k", "write 2M 4k"), [True, True, True], "disk b")
        damage(disk, "writes to a fail")
        t.equal([d.get("damaged") for d in json.loads(cvd("list", pool, "--json"))], [leaf, None])
        assert "a is damaged" in cvd("list", pool)
        if comes_round:
            file.flip(leaf)  # it can be read again, but lacks what was written
        kill(process)
    for each in (a, b, disk):
        each.stop()
    assert "is lost" in cvd("pool", "check", pool, status=6, parts=True)
    cvd("rollback", f"{pool}/a@s")
    cvd("fill", f"{pool}/a", t.folder / "image")
    process.stop()
    check(pool)


@limit(60)
def test_space_and_catalogue(t):
    """Free maps, and nodes above the catalogue, before the pool is opened and while it is served."""
    pool = make_pool(t, "a", "b")
    file = PoolFile(pool)
    file.flip(file.at(file.root()["free maps"], 0, 0))
    process = t.use(PoolProcess(pool, t.folder))
    disk = t.soft_disk(chain(pool, "a"), disk="a", more={"b": chain(pool, "b")})
    load = Load(t, disk, 3600, "--sleep", name="b")
    for tree, level in (("free maps", 0), ("free maps", 1), ("catalogue", 0), ("catalogue", 1)):
        file.flip(file.at(file.root()[tree], 0, level))
        cvd("snap", f"{pool}/b", "--name", f"{tree[0]}{level}")
        cvd("pool", "check", pool, status=None)  # which makes a root
    kill(process)
    wait_for("the load", load.running)
    load.stop(t)
    t.equal(disk.events("failed"), [])
    disk.stop()
    process.stop()
    repair(pool)


@limit(60)
def test_data(t):
    """A block of a template and a block of a clone's own: reads of them fail, and name them."""
    if not shutil.which("qemu-io"):
        t.skip("no qemu-io here")
    pool = make_pool(t, "base")
    cvd("snap", f"{pool}/base", "--name", "v1")
    cvd("label", f"{pool}/base@v1")
    cvd("dup", f"{pool}/base@v1", "vm", "--count", 2)
    own = random.Random(9).randbytes(BLOCK)
    (t.folder / "own").write_bytes(own)
    process = t.use(PoolProcess(pool, t.folder))
    disk = t.soft_disk(chain(pool, "vm1"), disk="vm1", more={"vm2": chain(pool, "vm2")})
    one, two = (t.use(Export(t, disk.sockets[name])) for name in ("vm1", "vm2"))
    t.equal(io(one, f"write -s {t.folder / 'own'} 40M 4k", "read 0 4k"), [True, True])
    file, image = PoolFile(pool), (t.folder / "image").read_bytes()
    common, alone = file.find(image[100 * BLOCK:101 * BLOCK]), file.find(own)
    file.flip(common)
    file.flip(alone)
    for export in (one, two):
        t.equal(io(export, f"read {100 * BLOCK} 4k", f"read {99 * BLOCK} 4k", f"read {101 * BLOCK} 4k",
                   "read 40M 4k", f"write {102 * BLOCK} 4k"),
                [False, True, True, export is two, True])
    t.equal(io(one, f"write {100 * BLOCK} 4k", f"read {100 * BLOCK} 4k"), [True, True])  # its own now
    damage(disk, f"block {common}, which is at {100 * BLOCK} bytes of vm1, differs",
           f"block {alone}, which is at {40 * MIB} bytes of vm1, differs")
    for each in (one, two):
        each.stop()
    errors = disk.bench("--rw", "read", "--range", "8M", "--min-requests", "2048", "--time", "1s",
                        "--depth", "1")["errors"]
    t.equal(errors, 0, "vm1 has written it")
    disk.stop()
    disk = t.soft_disk(chain(pool, "vm2"), disk="vm2")
    result = disk.bench("--rw", "read", "--range", "8M", "--min-requests", "2048", "--time", "1s", check=False)
    assert result["errors"] > 0, result
    damage(disk, f"block {common}, which is at {100 * BLOCK} bytes of vm2, differs")
    t.equal(disk.events("failed"), [])
    disk.stop()
    process.stop()
    result = json.loads(cvd("pool", "check", pool, "--data", "--json", status=6, parts=True))
    t.equal([result[n] for n in ("damaged", "leaked", "unmarked")], [2, 0, 0])
