"""A guest on several everyday extensions at once, while legs and workers are killed."""

import hashlib
import json
import os
import random
import subprocess
import time

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, kernel_errors
from devtap_test.nbdkit import get
from devtap_test.softdisk import SoftDisk
from devtap_test.storage import MIRROR_METADATA, NbdServer, luks, mirror_reaches

MIB = 1 << 20
LUKS_HEADER = 16 * MIB
SIZE = 48 * MIB  # of the plain disk
ROUNDS = int(os.environ.get("DEVTAP_EVERYDAY_ROUNDS", "3"))


def legs(t):
    """An encrypted disk full of random bytes, as two equal legs on NBD servers; and its key."""
    image, key = luks(t, "--sector-size", "4096", size=(LUKS_HEADER + SIZE) // MIB)
    with open(image, "r+b") as file:
        file.seek(LUKS_HEADER)
        file.write(random.Random(4).randbytes(SIZE))
        file.write(bytes(MIRROR_METADATA))
    other = t.folder / "other.luks"
    subprocess.run(["cp", image, other], check=True)
    servers = [t.use(NbdServer(t.folder, each, each.stem)) for each in (image, other)]
    return key, (image, other), servers


def mirror(servers):
    """A chain's end."""
    return ("mirror create=clean retry=500ms settle=500ms missing=any "
            f"leg1='{servers[0].leg()}' leg2='{servers[1].leg()}'")


def content(guest, skip_mib, mib):
    """The hash of a part of the guest's disk, as the soft disk serves it."""
    return guest.check(f"dd if=/dev/vda bs=64k skip={16 * skip_mib} count={16 * mib} iflag=direct "
                       "2>/dev/null | sha256sum").split()[0]


def served_alone(t, key, image):
    """The hash of all that one leg holds, served without the rest."""
    with t.soft_disk(f"crypt key-file={key} | file path={image}", disk="alone") as alone:
        return hashlib.sha256(get(t, alone)).hexdigest()


def kill_in_turn(t, disk, servers, load, between):
    """A server, then a worker, each time another one; between() is asked while a leg is away."""
    generator = random.Random(5)
    for number in range(ROUNDS):
        server = servers[number % 2]
        load.goes_on()
        mirror_reaches(disk, "complete")
        server.kill()
        between()
        load.goes_on()
        server.restart()
        time.sleep(generator.uniform(0, 0.7))
        disk.kill_worker()
        load.goes_on()
        load.check(f"after {number + 1} rounds")
    mirror_reaches(disk, "complete")
    t.log(f"{ROUNDS} servers and {ROUNDS} workers killed, {load.finish()} passes of fio")


@limit(400)
def test_crypt_cow_cache(t):
    """Plain bytes above, an encrypted overlay, a cached base: fio verifies, and the base stays as it was.

    At the end the overlay is committed into one leg, which then serves the same disk without the rest.
    """
    key, (image, other), servers = legs(t)
    overlay = t.folder / "vm.cow"
    disk = t.soft_disk(f"crypt key-file={key} | cow overlay={overlay} create=on | readonly | "
                       f"cache path={t.folder}/vm.cache size=8M sequential=0 | {mirror(servers)}")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    before = content(guest, 24, 24)
    load = VerifiedLoad(guest, jobs=2)  # in the first 16 MiB
    kill_in_turn(t, disk, servers, load,
                 lambda: t.equal(content(guest, 24, 24), before, "the base with a leg away"))
    t.equal(content(guest, 24, 24), before, "the base")
    t.equal(kernel_errors(guest), "")
    seen = content(guest, 0, SIZE // MIB)
    layers = disk.stats()  # of the last worker
    t.log({name: layers[name].get("counters") for name in ("cow", "cache", "mirror")})
    assert layers["cache"]["counters"]["used"], "nothing of the base is in the cache"
    guest.power_off()
    t.equal(disk.stop(), 0, "exit status")
    for server in servers:
        server.stop()
    subprocess.run(["cmp", "-n", str(LUKS_HEADER + SIZE), image, other], check=True)
    os.truncate(image, LUKS_HEADER + SIZE)
    info = subprocess.run([SoftDisk.binary(), "cow", "info", "--json", overlay], check=True,
                          capture_output=True, text=True).stdout
    assert json.loads(info)["held"] >= 8 * MIB // 4096, info  # one pass of fio has written as much
    subprocess.run([SoftDisk.binary(), "cow", "commit", overlay, image], check=True)
    t.equal(served_alone(t, key, image), seen, "committed into a leg, and served alone")


@limit(400)
def test_crypt_cache_mirror(t):
    """Writes pass encrypted through a write-back cache to both legs, which are equal in the end."""
    key, (image, other), servers = legs(t)
    disk = t.soft_disk(f"crypt key-file={key} | cache path={t.folder}/vm.cache size=8M "
                       f"mode=writeback keep-dirty=5% sequential=0 | {mirror(servers)}")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    # Destaging goes on while nothing is flushed: the mirror meets the dead leg by itself.
    kill_in_turn(t, disk, servers, load,
                 lambda: mirror_reaches(disk, "degraded"))
    t.equal(kernel_errors(guest), "")
    seen = content(guest, 0, SIZE // MIB)
    guest.power_off()
    disk.do("cache", "drain")
    wait_for("the cache to be clean", lambda: disk.stats()["cache"]["counters"]["dirty"] == 0, interval=0.1)
    t.equal(disk.stop(), 0, "exit status")
    for server in servers:
        server.stop()
    subprocess.run(["cmp", "-n", str(LUKS_HEADER + SIZE), image, other], check=True)
    os.truncate(image, LUKS_HEADER + SIZE)
    t.equal(served_alone(t, key, image), seen, "one leg served alone")
