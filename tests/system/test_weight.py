"""Disks of a pool get shares by weight, counted in requests while both keep it busy."""

import json
import random
import subprocess

from devtap_test import SoftDisk, wait_for
from devtap_test.case import limit
from devtap_test.pool import PoolProcess, cvd

ENOUGH = 300  # requests of the light one


def stats(pool):
    """What `cvd pool stats` tells, by disk."""
    return {row["name"]: row for row in json.loads(cvd("pool", "stats", pool, "--json"))}


def load(disk):
    """A load that keeps many requests waiting."""
    return subprocess.Popen(
        [SoftDisk.binary(), "bench", "--socket", disk.socket, "--rw", "randread", "--size", "1M",
         "--depth", "256", "--time", "3600s", "--json", "--sleep", "--no-inflight"],
        stdout=subprocess.DEVNULL)


def backlogged(before, now):
    """Did each disk have something queued all the while between two looks? It had, where fewer requests have begun than
    were queued at the first look."""
    def begun(row):
        return row["requests"] + row["in-flight"]
    return all(begun(now[name]) - begun(row) < row["queued"] for name, row in before.items())


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
        if backlogged(*looks[-2:]):
            shares.append([looks[-1][n]["requests"] - looks[-2][n]["requests"] for n in ("heavy", "light")])
        return sum(light for _, light in shares) >= ENOUGH
    wait_for("both to be busy for long enough", enough, interval=0.0)
    for l in loads:
        l.terminate()
        t.equal(l.wait(120), 0)
    heavy, light = (sum(s[i] for s in shares) for i in (0, 1))
    t.log(f"{len(shares)} of {len(looks)} intervals, {heavy} to {light} requests")
    assert 2.4 < heavy / light < 3.6, f"{heavy} to {light}"
    wait_for("the last of them", lambda: not stats(pool)["heavy"]["queued"])
    row = stats(pool)["heavy"]
    t.equal((row["owner"], row["weight"], row["queued"]), ("heavy", 300, 0))
    assert row["waited"] > 0 and row["busy-ns"] > 0 and row["bytes"] >= row["requests"] * 512, row
    disks[1].stop()
    one = t.soft_disk(f"cvd pool={pool} name=light weight=50", disk="again")
    t.equal(stats(pool)["light"]["weight"], 50)
    one.stop()
