"""What the verbs of cvd promise, as users of rbd, zfs and qemu-img try them."""

import json

from devtap_test.pool import PoolProcess, check, cvd
from devtap_test.softdisk import SoftDisk

MIB = 1 << 20


def filled(t, *mib):
    """A pool with disk `vm`: a snapshot s1, s2 ... after each filling, and another one at its end."""
    pool, image = t.folder / "pool", t.folder / "image"
    cvd("pool", "create", pool, "--size", "256M")
    cvd("create", f"{pool}/vm", "--size", "32M")
    for number, size in enumerate(mib, 1):
        image.write_bytes(bytes([number]) * (size * MIB))
        cvd("fill", f"{pool}/vm", image)
        cvd("snap", f"{pool}/vm@s{number}")
    return pool


def rows(*words):
    return {row["name"]: row for row in json.loads(cvd("du", *words, "--json"))}


def used(pool):
    return json.loads(cvd("pool", "info", pool, "--json"))["used"]


def snapshots(pool, disk="vm"):
    return [s["name"] for s in json.loads(cvd("snaps", f"{pool}/{disk}", "--json"))]


def test_why(t):
    """du tells what holds space, and a deletion gives back what it said."""
    pool = filled(t, 4, 9, 9, 2)
    cvd("snap", f"{pool}/vm@s5")
    cvd("create", f"{pool}/other", "1M")
    told = rows(f"{pool}/vm")
    t.equal([told[f"vm@s{i}"]["held"] for i in (1, 2, 3)], [4 * MIB, 9 * MIB, 9 * MIB])
    t.equal((told["vm@s4"]["held"], told["vm@s5"]["held"], told["vm"]["held"]), (0, 0, 0))
    t.equal((told["vm@s4%vm"]["held"], told["vm@s4%vm"]["from"]), (2 * MIB, "vm@s4"))
    t.equal((told["vm"]["all"], told["vm"]["charged"]), (24 * MIB, 24 * MIB))
    cvd("label", f"{pool}/vm@s2")
    cvd("dup", f"{pool}/vm@s2", "clone", "--count", 5)
    text = cvd("du", f"{pool}/vm")
    assert "label, clone clone1, clone clone2, clone clone3 and 2 more clones" in text, text
    assert "back to the last that is labelled or cloned, gives back 11" in text, text
    said = json.loads(cvd("du", f"{pool}/vm@s3%s4", "--json"))
    t.equal(said["held"], 9 * MIB)
    cvd("du", f"{pool}/vm@s4%s3", status=2)
    assert "'s2' is labelled" in cvd("delete", f"{pool}/vm@s1%s3", status=4)
    t.equal(len(snapshots(pool)), 5)
    cvd("sync", pool)
    before = used(pool)
    cvd("delete", f"{pool}/vm@s3%s4")
    cvd("sync", pool)
    given = before - used(pool)
    assert abs(given - said["held"] - said["held-maps"]) <= 8 * 4096, f"{given} of {said}"
    t.equal(snapshots(pool), ["s5", "s2", "s1"])
    whole = json.loads(cvd("du", pool, "--json"))
    t.equal([d["name"] for d in whole["disks"]][0], "vm")
    first = whole["disks"][0]
    t.equal(first["all"], first["own"] + first["snapshots"] + first["history"])
    t.equal(whole["used"], whole["disks-have"] + whole["rest"])
    cvd("delete", f"{pool}/vm")
    assert "vm (deleted)" in cvd("du", pool)
    check(pool)


def test_who_uses_it(t):
    """Who has a snapshot in use is told where the pool is served, and refuses what would lose it."""
    pool = filled(t, 4, 4)
    t.use(PoolProcess(pool, t.folder))
    cvd("du", f"{pool}/vm")
    t.use(SoftDisk(f"cvd pool={pool} name=vm@s1 read-only=on", t.folder))
    pins = rows(f"{pool}/vm")["vm@s1"]["pinned-by"]
    t.equal([p["by"] for p in pins], ["mount"])
    assert "in use by" in cvd("du", f"{pool}/vm")
    assert "vm@s1 is in use" in cvd("delete", f"{pool}/vm@s1%s2", status=4)
    t.equal(snapshots(pool), ["s2", "s1"])


def test_back_further(t):
    """A rollback beyond newer snapshots: refused and named, or with -r all or nothing; served or not, with a history or not."""
    pool = filled(t, 1, 2, 3, 4, 5, 6)
    expected = bytes([2]) * (2 * MIB)
    assert "'s6', 's5', 's4', 's3'" in cvd("rollback", f"{pool}/vm@s2", status=4)
    cvd("label", f"{pool}/vm@s4")
    assert "'s4' is labelled" in cvd("rollback", "-r", f"{pool}/vm@s2", status=4)
    cvd("unlabel", f"{pool}/vm@s4")
    t.equal(len(snapshots(pool)), 6)
    cvd("rollback", f"{pool}/vm@s5", "--newer")
    t.equal(snapshots(pool), ["s5", "s4", "s3", "s2", "s1"])
    process = t.use(PoolProcess(pool, t.folder))
    cvd("history", f"{pool}/vm", "1h")
    cvd("rollback", f"{pool}/vm@s2", "-r")
    t.equal(snapshots(pool), ["s2", "s1"])
    cvd("export", f"{pool}/vm", t.folder / "out")
    assert (t.folder / "out").read_bytes().rstrip(b"\0") == expected, "the contents are others"
    assert "history" in cvd("du", f"{pool}/vm")
    check(pool)
    process.stop()
    check(pool)


def test_info(t):
    """Of a pool, a disk and a snapshot."""
    pool = filled(t, 1)
    told = json.loads(cvd("info", f"{pool}/vm", "--json"))
    t.equal((told["kind"], told["size"], told["sector"], told["snapshots"]), ("disk", 32 * MIB, 512, 1))
    cvd("label", f"{pool}/vm@s1")
    cvd("dup", f"{pool}/vm@s1", "clone")
    t.equal(json.loads(cvd("info", f"{pool}/clone", "--json"))["origin"], "vm@s1")
    told = json.loads(cvd("info", f"{pool}/vm@s1", "--json"))
    t.equal((told["labelled"], told["clones"]), (True, 1))
    t.equal(json.loads(cvd("info", pool, "--json"))["disks"], 2)
    t.equal(cvd("info", pool), cvd("pool", "info", pool))
    assert "origin     vm@s1" in cvd("info", f"{pool}/clone")
    cvd("info", f"{pool}/nobody", status=3)
    cvd("info", t.folder / "nothing", status=3)
