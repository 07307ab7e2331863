"""The pool's process takes snapshots by itself, and deletes those that are too many."""

import json
import os
import signal

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.pool import PoolProcess, check, cvd


def snapshots(pool, name):
    """Those of a disk, the newest first."""
    return json.loads(cvd("snaps", f"{pool}/{name}", "--json"))


@limit(90)
def test_every_second(t):
    """One a second of a disk that changes, none of one that does not; also after a death."""
    pool, image = t.folder / "pool", t.folder / "image"
    cvd("pool", "create", pool, "--size", "256M")
    for name in ("vm", "still"):
        cvd("create", f"{pool}/{name}", "--size", "16M")
    cvd("snap", f"{pool}/vm", "--name", "mine")
    process = t.use(PoolProcess(pool, t.folder))
    for name in ("vm", "still"):
        cvd("schedule", f"{pool}/{name}", "every=1s", "keep=4s:all")
    t.equal(json.loads(cvd("schedule", f"{pool}/vm", "--json")),
            {"name": "vm", "every": 1, "keep": "4s:all"})
    taken = set()

    def another():
        image.write_bytes(os.urandom(4096))
        cvd("fill", f"{pool}/vm", image)
        before = len(taken)
        taken.update(s["name"] for s in snapshots(pool, "vm") if s["scheduled"])
        return len(taken) > before

    for n in range(6):
        wait_for("a snapshot", another)
        if n == 3:
            os.kill(process.worker(), signal.SIGKILL)
    wait_for("an old one to go",
             lambda: taken - {s["name"] for s in snapshots(pool, "vm")})
    assert "mine" in [s["name"] for s in snapshots(pool, "vm")]
    t.equal(snapshots(pool, "still"), [])
    cvd("schedule", f"{pool}/vm", "every=1m", "keep=1d:1h,1h:1m", status=2)
    cvd("schedule", f"{pool}/vm", "every=soon", status=2)
    cvd("schedule", f"{pool}/vm", "off")
    assert "no schedule" in cvd("schedule", f"{pool}/vm")
    process.stop()
    check(pool)
