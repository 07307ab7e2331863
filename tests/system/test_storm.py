"""Many clones of one template read at once: each block of the template is read once from the pool."""

import json
import os
import random
import signal
import subprocess

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.pool import PoolProcess, check, cvd
from devtap_test.process import read_bytes

MIB = 1 << 20
CLONES = 20
IMAGE = 8 * MIB


def make_pool(t):
    """A pool with a labelled template of random bytes, and clones."""
    pool, image = t.folder / "pool", t.folder / "image"
    image.write_bytes(random.Random(5).randbytes(IMAGE))
    cvd("pool", "create", pool, "--size", "1G")
    cvd("create", f"{pool}/base", "--size", "64M")
    cvd("fill", f"{pool}/base", image)
    cvd("snap", f"{pool}/base", "--name", "v1")
    cvd("label", f"{pool}/base@v1")
    cvd("dup", f"{pool}/base@v1", "vm", "--count", CLONES)
    return pool


def chain(pool, number):
    return f"cvd pool={pool} name=vm{number}"


def told(pool):
    """What the cache counted."""
    return json.loads(cvd("pool", "data-cache", pool, "--json"))


def record(t, pool):
    """Reads of a clone, with hashes of what they found. Returns the trace, and how many blocks it needs."""
    trace = t.folder / "reads.dtt"
    process = PoolProcess(pool, t.folder)
    disk = t.soft_disk(f"trace out={trace} hash=xxh3 | {chain(pool, 1)}", disk="recorded")
    for rw, size, requests in (("read", "64K", IMAGE >> 16), ("randread", "4K", 1000)):
        disk.bench("--rw", rw, "--size", size, "--depth", "4", "--range", str(IMAGE), "--time", "100ms", "--min-requests", str(requests))
    disk.stop()
    found = told(pool)
    process.stop()
    t.equal(found["misses"], found["read"])
    return trace, found["misses"]


def replay(t, disk, trace, names):
    """All of them at once; what they read must be what was read when the trace was made."""
    replays = [subprocess.Popen([disk.binary(), "trace", "replay", "--socket", disk.sockets[name], "--closed", "--verify",
                                 "--hashes", "--json", trace], stdout=subprocess.PIPE, text=True) for name in names]
    for each in replays:
        text, _ = each.communicate(timeout=600)
        t.equal(each.returncode, 0, text)
        assert json.loads(text)["checked"] > 0, text


@limit(90)
def test_read_once(t):
    """Twenty clones read at once; then without the cache, which is set while they are in use, and outlives the worker."""
    pool = make_pool(t)
    trace, blocks = record(t, pool)
    process = t.use(PoolProcess(pool, t.folder))
    names = [f"vm{n}" for n in range(1, CLONES + 1)]
    disk = t.soft_disk(chain(pool, 1), disk=names[0],
                       more={name: chain(pool, n + 1) for n, name in enumerate(names) if n})
    before = read_bytes(process.worker())
    replay(t, disk, trace, names)
    found = told(pool)
    t.log(f"{blocks} blocks of the template, read once for {CLONES} clones: {found}")
    t.equal(found["misses"], blocks, "blocks that were read for the cache")
    t.equal(found["read"], blocks, "blocks that were read")
    assert found["hits"] + found["waits"] > (CLONES - 1) * blocks, found
    # The kernel's count has maps, too; it is 0 where the file is in memory.
    assert read_bytes(process.worker()) - before < 2 * blocks * 4096, found
    t.equal(json.loads(cvd("pool", "info", pool, "--json"))["data-cache"], found)
    cvd("pool", "data-cache", pool, "off")
    replay(t, disk, trace, names[:2])
    without = told(pool)
    t.equal((without["size"], without["misses"]), (0, blocks))
    assert without["read"] >= 3 * blocks, without
    cvd("pool", "data-cache", pool, "4M")
    os.kill(process.worker(), signal.SIGKILL)
    t.equal(wait_for("the next worker", lambda: told(pool)["size"]), 4 * MIB)
    replay(t, disk, trace, names[:4])
    small = told(pool)
    assert small["evicted"] > 0 and small["held"] <= 4 * MIB, small
    disk.stop()
    process.stop()
    check(pool)
