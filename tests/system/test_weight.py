"""Disks of a pool get shares by weight, counted in requests while both keep it busy."""

import json
import random
import subprocess

from devtap_test import SoftDisk
from devtap_test.case import limit
from devtap_test.pool import PoolProcess, cvd

TIME = 6


def stats(pool):
    """What `cvd pool stats` tells, by disk."""
    return {row["name"]: row for row in json.loads(cvd("pool", "stats", pool, "--json"))}


def load(disk):
    """A load that keeps many requests waiting."""
    return subprocess.Popen(
        [SoftDisk.binary(), "bench", "--socket", disk.socket, "--rw", "randread", "--size", "16K",
         "--depth", "128", "--time", f"{TIME}s", "--json", "--sleep", "--no-inflight"],
        stdout=subprocess.DEVNULL)


@limit(90)
def test_three_to_one(t):
    """While both wait for their turn, one of weight 300 gets three times what one of 100 gets."""
    pool = t.folder / "pool"
    image = t.folder / "image"
    image.write_bytes(random.Random(1).randbytes(64 << 20))
    cvd("pool", "create", pool, "--size", "1G")
    for name in ("heavy", "light"):
        cvd("create", f"{pool}/{name}", "--size", "64M")
        cvd("fill", f"{pool}/{name}", image)
    assert "nobody serves" in cvd("pool", "stats", pool, status=3)
    cvd("weight", f"{pool}/heavy", "300")
    cvd("weight", f"{pool}/light", "10001", status=2)
    t.use(PoolProcess(pool, t.folder))
    disks = [t.soft_disk(f"cvd pool={pool} name={name}", disk=name) for name in ("heavy", "light")]
    loads = [load(disk) for disk in disks]
    before, shares = None, []
    while all(l.poll() is None for l in loads):
        now = stats(pool)
        # Both had requests queued at the beginning and at the end of it: they were backlogged.
        if before and all(row["queued"] for s in (before, now) for row in s.values()):
            shares.append([now[n]["requests"] - before[n]["requests"] for n in ("heavy", "light")])
        before = now
    for l in loads:
        t.equal(l.wait(30), 0)
    heavy, light = (sum(s[i] for s in shares) for i in (0, 1))
    t.log(f"{len(shares)} intervals, {heavy} to {light} requests")
    assert light > 500, f"they were not busy enough for a judgement: {shares}"
    assert 2.4 < heavy / light < 3.6, f"{heavy} to {light}"
    row = stats(pool)["heavy"]
    t.equal((row["owner"], row["weight"], row["queued"]), ("heavy", 300, 0))
    assert row["waited"] > 0 and row["busy-ns"] > 0 and row["bytes"] >= row["requests"] * 512, row
    disks[1].stop()
    one = t.soft_disk(f"cvd pool={pool} name=light weight=50", disk="again")
    t.equal(stats(pool)["light"]["weight"], 50)
    one.stop()
