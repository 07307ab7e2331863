"""A guest on a writeback cache before a slow disk, while workers are killed."""

import json
import random
import time

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, file_system, kernel_errors

MIB = 1 << 20
KILLS = 4


def info(disk, path):
    return json.loads(disk.devtap("cache", "info", "--json", path))


@limit(180)
def test_workers_are_killed(t):
    image, cache = t.sparse_file(64 * MIB), t.folder / "vm1.cache"
    disk = t.soft_disk(f"cache path={cache} size=12M mode=writeback keep-dirty=20% | "
                       f"delay time=2ms | file path={image}", options=["--single"])
    guest = t.guest([Disk(disk.socket, reconnect=1)])
    load = VerifiedLoad(guest)
    generator = random.Random(3)
    for number in range(KILLS):
        load.goes_on()
        time.sleep(generator.uniform(0, 0.3))
        load.check(f"after {number} kills")
        disk.kill()
        disk.devtap("cache", "check", str(cache))
        disk.restart()
    load.finish()
    t.equal(kernel_errors(guest), "")
    counters = disk.stats()["cache"]["counters"]
    assert counters["used"], counters  # the last life may have been too short for more
    # Everything drained: without the cache, the disk is whole.
    guest.close()
    disk.do("cache", "drain")
    wait_for("the cache to be clean", lambda: disk.stats()["cache"]["counters"]["dirty"] == 0)
    disk.stop()
    t.equal(info(disk, str(cache))["dirty"], 0)


@limit(120)
def test_a_file_system_and_its_next_life(t):
    image, cache = t.sparse_file(64 * MIB), t.folder / "vm1.cache"
    disk = t.soft_disk(f"cache path={cache} size=40M mode=writeback keep-dirty=100% sequential=0"
                       f" | file path={image}")
    guest = t.guest([Disk(disk.socket)])
    file_system(guest, files=16)
    disk.set("cache", mode="writethrough")
    file_system(guest, files=16)
    guest.close()
    disk.stop()
    found = info(disk, str(cache))
    t.equal((found["disk"], found["damaged"]), ("vm1", 0))
    other = t.folder / "other.img"
    other.write_bytes(b"")
    other.open("r+b").truncate(64 * MIB)
    t.no_soft_disk("is the cache of 'vm1'", f"cache path={cache} | file path={other}", disk="vm2")
