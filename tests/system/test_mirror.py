"""A guest on a mirror of `file` and `nbd` while legs and processes are killed."""

import os
import random
import subprocess
import time

from devtap_test import Disk
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, kernel_errors
from devtap_test.softdisk import conforms
from devtap_test.storage import MIRROR_METADATA, NbdServer, mirror_reaches, mirror_status

MIB = 1 << 20
SIZE = 64 * MIB
ROUNDS = int(os.environ.get("DEVTAP_MIRROR_ROUNDS", "4"))


@limit(300)
def test_legs_and_workers_killed(t):
    """Of a leg's server and of workers, at random, under verified load."""
    a, b = t.sparse_file(SIZE + MIRROR_METADATA, "a.img"), t.sparse_file(SIZE + MIRROR_METADATA, "b.img")
    server = t.use(NbdServer(t.folder, b))
    disk = t.soft_disk(
        f"mirror create=clean retry=500ms missing=any leg1='file path={a}' "
        f"leg2='{server.leg()}'")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    generator = random.Random(1)
    for number in range(1, ROUNDS + 1):
        load.goes_on()
        mirror_reaches(disk, "complete")
        server.kill()
        # Reads do without the leg that is gone, and a slow guest's first write to it may take long to fail.
        mirror_reaches(disk, "degraded")
        load.goes_on()
        time.sleep(generator.uniform(0, 1))
        t.equal(mirror_status(disk)["state"], "degraded")
        server.restart()
        time.sleep(generator.uniform(0, 0.7))
        disk.kill_worker()
        load.goes_on()
        load.check(f"after {number} rounds")
    mirror_reaches(disk, "complete")
    passes = load.finish()
    t.equal(kernel_errors(guest), "")
    guest.power_off()
    t.log(f"{passes} passes of fio, {mirror_status(disk)}")
    t.equal(disk.stop(), 0, "exit status")
    server.stop()
    subprocess.run(["cmp", "-n", str(SIZE), a, b], check=True)


@limit(120)
def test_conformance(t):
    """What devtap promises of every layer, also while regions are copied at any rate."""
    for number in range(20):
        for leg in "ab":
            with open(t.folder / f"{number}{leg}", "wb") as file:
                file.truncate(64 << 20)
    conforms(f"mirror create=sync leg1='file path={t.folder}/{{0}}a' leg2='file path={t.folder}/{{0}}b'")
