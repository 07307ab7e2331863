"""What the verbs of cvd promise, as users of rbd, zfs and qemu-img try them."""

import json
import os
import subprocess

from devtap_test.paths import SOURCE
from devtap_test.pool import PoolProcess, binary, check, cvd
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
    assert "label, clones clone1, clone2, clone3 and 2 more" in text, text
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


def completed(line):
    """What bash offers for the last word."""
    script = ("source " + str(SOURCE / "completions/cvd") + "; words=(" + line + "); COMP_WORDS=(\"${words[@]}\" \"$1\"); "
              "COMP_CWORD=${#words[@]}; _cvd; printf '%s\\n' \"${COMPREPLY[@]}\"")
    return lambda word: subprocess.run(
        ["bash", "-c", script, "bash", str(word)], check=True, capture_output=True, text=True,
        env=dict(os.environ, PATH=f"{os.path.dirname(binary())}:{os.environ['PATH']}")).stdout.split()


def test_completion(t):
    """bash completes commands, options, what may stand behind them, pools, disks and snapshots."""
    pool = filled(t, 1)
    assert {"info", "du", "rollback", "pool", "destroy"} <= set(completed("cvd")(""))
    t.equal(set(completed("cvd pool")("c")), {"check", "close", "create"})
    t.equal(completed("cvd rollback x")("--n"), ["--newer"])
    t.equal(completed("cvd quota x --policy")("h"), ["hold"])
    t.equal(completed("cvd quota x --policy =")("f"), ["fail"])
    t.equal(completed(f"cvd pool share {pool}")(""), ["off", "on", "writes"])
    t.equal(completed("cvd du")(f"{pool}/v"), [f"{pool}/vm"])
    t.equal(completed("cvd rollback")(f"{pool}/vm@"), [f"{pool}/vm@s1"])


def test_json(t):
    """Of each command whose options say so, standard output is JSON, or a line of it for each thing that happens."""
    pool = t.folder / "pool"
    done = lambda *words: json.loads(cvd(*words, "--json"))
    t.equal(done("pool", "create", pool, "--size", "64M"), {"done": "pool create", "to": str(pool)})
    done("create", f"{pool}/a", "4M")
    done("snap", f"{pool}/a@s")
    done("label", f"{pool}/a@s")
    t.equal(done("dup", f"{pool}/a@s", "c"), {"done": "dup", "to": f"{pool}/a@s", "name": "c"})
    t.equal(done("dup", f"{pool}/a@s", "d", "--count", 2)["count"], 2)
    opened = done("pool", "open", pool, "--background")
    t.equal((opened["done"], opened["socket"]), ("pool open", str(pool) + ".sock"))
    assert "background" in cvd("pool", "share", pool, "on", "--now", status=4)
    t.equal(done("pool", "share", pool)["share"], "off", "a command that was refused did something")
    t.equal(done("pool", "close", pool)["done"], "pool close")
    cvd("bench", f"{pool}/none", status=3)
    cvd("bench", f"{pool}/a@s", status=2)
    rows = [line.split(":", 1) for line in cvd("--completion-data").splitlines()]
    t.equal([name for name, options in rows if "--json" not in options], [])
