"""A disk reaches its quota: its writes wait, fail, or cost it snapshots; others go on."""

import json
import os
import signal

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.load import kernel_errors, noise
from devtap_test.pool import PoolProcess, check, cvd

MIB = 1 << 20
REACHED = "vm has reached its quota"
WRITE = f"""{noise(24)} >/tmp/data
(dd if=/tmp/data of=/dev/vda bs=256k oflag=direct conv=fsync >/tmp/dd.log 2>&1; echo $? >/tmp/dd.status) &
"""


def quota(pool, name, *words):
    """What `cvd quota` tells."""
    return json.loads(cvd("quota", f"{pool}/{name}", *words, "--json"))


def ended(guest):
    """Has dd?"""
    return guest.run("test -e /tmp/dd.status")[0] == 0


@limit(150)
def test_hold(t):
    """Writes wait, also after the pool's process was killed, until the quota is raised."""
    pool = t.folder / "pool"
    cvd("pool", "create", pool, "--size", "1G")
    cvd("create", f"{pool}/vm", "--size", "64M")
    cvd("create", f"{pool}/other", "--size", "64M")
    cvd("create", f"{pool}/third", "--size", "64M")
    process = t.use(PoolProcess(pool, t.folder))
    t.equal(quota(pool, "vm", "8M"),
            {"name": "vm", "quota": 8 * MIB, "charged": 0, "policy": "hold"})
    disk = t.soft_disk(f"cvd pool={pool} name=vm")
    third = t.soft_disk(f"cvd pool={pool} name=third", disk="third")
    guest = t.guest([disk.socket])
    guest.check(WRITE)
    wait_for("the quota", lambda: REACHED in process.output())
    t.equal(quota(pool, "vm")["charged"], 8 * MIB)
    guest.check("dd if=/dev/vda of=/tmp/read bs=1M count=2 iflag=direct && "
                "cmp -n 2097152 /tmp/data /tmp/read")
    image = t.folder / "image"
    image.write_bytes(os.urandom(16 * MIB))
    cvd("fill", f"{pool}/other", image)  # another disk is not kept waiting
    os.kill(process.worker(), signal.SIGKILL)
    wait_for("the quota again", lambda: process.output().count(REACHED) == 2)
    assert not ended(guest), "the write has ended"
    wait_for("its events", lambda: [REACHED in e["text"] for e in disk.events("quota")] == [True, True])
    cvd("quota", f"{pool}/vm", "off")
    wait_for("the end of the write", lambda: ended(guest))
    t.equal(guest.check("cat /tmp/dd.status"), "0")
    t.equal(guest.check("cmp -n 25165824 /tmp/data /dev/vda"), "")
    t.equal(kernel_errors(guest), "")
    t.equal(quota(pool, "vm")["charged"], 24 * MIB)
    wait_for("the event of the end", lambda: len(disk.events("resumed")) == 1)
    t.equal([e["event"] for e in third.events() if e["event"] in ("quota", "resumed")], [])
    guest.power_off()
    third.stop()
    disk.stop()
    process.stop()
    check(pool)


@limit(60)
def test_fail_and_drop(t):
    """Without a process: the policies of fill, and what survives it."""
    pool, image = t.folder / "pool", t.folder / "image"
    cvd("pool", "create", pool, "--size", "256M")
    cvd("create", f"{pool}/vm", "--size", "16M")
    for n in range(3):
        image.write_bytes(os.urandom(2 * MIB))
        cvd("fill", f"{pool}/vm", image)
        cvd("snap", f"{pool}/vm", "--name", f"s{n}")
    t.equal(quota(pool, "vm", "6M", "--policy", "fail")["charged"], 6 * MIB)
    assert "No space left" in cvd("fill", f"{pool}/vm", image, status=1)
    cvd("quota", f"{pool}/vm", "--policy", "drop-oldest")
    cvd("fill", f"{pool}/vm", image)
    t.equal([s["name"] for s in json.loads(cvd("snaps", f"{pool}/vm", "--json"))], ["s2", "s1"])
    t.equal(quota(pool, "vm")["policy"], "drop-oldest")
    usage = json.loads(cvd("du", f"{pool}/vm", "--json"))
    t.equal((usage[0]["charged"], usage[0]["quota"]), (6 * MIB, 6 * MIB))
    cvd("quota", f"{pool}/vm", "7X", status=2)
    cvd("quota", f"{pool}/vm", "7M", "--policy", "perhaps", status=2)
    check(pool)
