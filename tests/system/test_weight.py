"""Disks of a pool get shares by weight, counted in requests while both keep it busy."""

import json
import random
import subprocess

from devtap_test import SoftDisk, wait_for
from devtap_test.case import limit
from devtap_test.pool import PoolProcess, ask, cvd

ENOUGH = 2000  # requests of the light one


def stats(pool):
    """What `cvd pool stats` tells, by disk."""
    return {row["name"]: row for row in json.loads(ask(pool, "pool", "stats", pool, "--json"))}


def load(disk):
    """A load that keeps many requests waiting."""
    return subprocess.Popen(
        [SoftDisk.binary(), "bench", "--socket", disk.socket, "--rw", "randread", "--size", "16K",
         "--depth", "256", "--time", "3600s", "--json", "--sleep", "--no-inflight"],
        stdout=subprocess.DEVNULL)


def backlogged(before, now):
    """How many requests of (the heavy one, the light one) began between two looks, if both had some queued all the while:
    if fewer began than were queued at the first look. Else None."""
    def begun(row):
        return row["requests"] + row["in-flight"]
    counts = [begun(now[name]) - begun(before[name]) for name in ("heavy", "light")]
    return counts if all(n < before[name]["queued"] for n, name in zip(counts, ("heavy", "light"))) else None


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
    looks, shares = [stats(pool)], []

    def enough():
        looks.append(stats(pool))
        shares.append(backlogged(*looks[-2:]) or (0, 0))
        return sum(light for _, light in shares) >= ENOUGH
    wait_for("both to be busy for long enough", enough, interval=0.0)
    for l in loads:
        l.terminate()
        t.equal(l.wait(120), 0)
    heavy, light = (sum(s[i] for s in shares) for i in (0, 1))
    t.log(f"{sum(any(s) for s in shares)} of {len(shares)} intervals, {heavy} to {light} requests")
    assert 2.4 < heavy / light < 3.6, f"{heavy} to {light}"
    wait_for("the last of them", lambda: not stats(pool)["heavy"]["queued"])
    row = stats(pool)["heavy"]
    t.equal((row["owner"], row["weight"], row["queued"]), ("heavy", 300, 0))
    assert row["waited"] > 0 and row["busy-ns"] > 0 and row["bytes"] >= row["requests"] * 512, row
    disks[1].stop()
    one = t.soft_disk(f"cvd pool={pool} name=light weight=50", disk="again")
    t.equal(stats(pool)["light"]["weight"], 50)
    one.stop()
