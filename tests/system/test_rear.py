"""A guest's disk behind other people's back ends: qemu-storage-daemon, and devtap itself."""

import json
import os
import time

from devtap_test import Disk, SoftDisk, StorageDaemon, wait_for
from devtap_test.load import VerifiedLoad, file_system, fio_verify, kernel_errors

MIB = 1 << 20


def tap(t, rear, extensions=""):
    """A soft disk whose back is the rear at that socket."""
    return t.soft_disk(f"{extensions}vhost-user path={rear}", disk="tap")


def held_up(disk):
    """Requests that were under way for more than a second, by the layer that had them; a person sees the same."""
    stuck = wait_for("a request that waits for long",
                     lambda: json.loads(disk.devtap("show", "--json", disk.disk))["front"]["stuck"])
    assert all(each["age_ms"] >= 1000 for each in stuck), stuck
    assert "under way for more than a second" in disk.devtap("show", disk.disk)
    return {each["layer"] for each in stuck}


def counters(disk):
    """Those of the rear."""
    return disk.stats()["vhost-user"]["counters"]


def test_storage_daemon(t):
    """A file system and verified load; discard; nothing is copied but what layers change."""
    daemon = t.use(StorageDaemon(t.sparse_file(256 * MIB), t.folder))
    disk = tap(t, daemon.socket, f"trace out={t.folder}/t.dtt | ")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    t.equal(guest.check("cat /sys/block/vda/size"), str(256 * MIB // 512), "sectors")
    file_system(guest, "ext4")
    fio_verify(guest, depth=64)
    guest.check("blkdiscard -o 0 -l 16M /dev/vda")
    t.equal(kernel_errors(guest), "")
    t.equal(counters(disk)["bounced"], 0, "requests that were copied")


def test_private_copies(t):
    """A layer that transforms: the rear has other bytes than the guest, and gets them through copies."""
    xor = SoftDisk.binary().rsplit("/", 2)[0] + "/examples/xor.so"
    if not os.path.exists(xor):
        t.skip("the examples are not built")
    image = t.sparse_file(64 * MIB)
    daemon = t.use(StorageDaemon(image, t.folder))
    disk = tap(t, daemon.socket, f"{xor} | ")
    guest = t.guest([disk.socket])
    fio_verify(guest, size="16m")
    guest.check("yes private | head -c 4096 | dd of=/dev/vda bs=4096 oflag=direct")
    with open(image, "rb") as file:
        assert b"private" not in file.read(4096), "the rear has the guest's bytes"
    assert counters(disk)["bounced"] > 0, "nothing was copied"
    t.equal(kernel_errors(guest), "")


def test_packed(t):
    """Packed rings on both sides, before another devtap."""
    rear = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}", disk="rear")
    disk = t.soft_disk(f"vhost-user path={rear.socket} packed=on", disk="tap")
    guest = t.guest([Disk(disk.socket, queues=2, packed=True)], smp=2)
    fio_verify(guest, jobs=2, depth=64)
    t.equal(kernel_errors(guest), "")


def test_resize(t):
    """The rear grows, and the guest sees it."""
    rear = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}", disk="rear")
    disk = tap(t, rear.socket)
    guest = t.guest([disk.socket])
    rear.resize(96 * MIB)
    wait_for("the guest to see the new size",
             lambda: guest.check("cat /sys/block/vda/size") == str(96 * MIB // 512))


def test_rear_killed(t):
    """The rear is killed and started again, five times under verified load."""
    image = t.sparse_file(128 * MIB)
    rear = t.soft_disk(f"file path={image}", disk="rear")
    disk = tap(t, rear.socket)
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    for number in range(1, 6):
        load.goes_on()
        rear.kill()
        time.sleep(0.2)
        if number == 1:
            t.equal(held_up(disk), {"vhost-user"}, "the layers that have requests for long")
        rear.restart()
        load.check(f"after {number} kills")
    load.goes_on()
    load.finish()
    t.equal(counters(disk)["rear-losses"], 5, "losses")
    t.equal(counters(disk)["rear-lies"], 0, "lies")
    t.equal(kernel_errors(guest), "")


def test_all_killed(t):
    """In turn: the rear, our worker, both at once."""
    image = t.sparse_file(128 * MIB)
    rear = t.soft_disk(f"file path={image}", disk="rear")
    disk = tap(t, rear.socket)
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    load.survives_rear(disk, rear, 6)
    load.finish()
    t.equal(kernel_errors(guest), "")


def test_rear_lost_and_failing(t):
    """on-rear-loss=fail: the guest is told at once, and works again when the rear does."""
    image = t.sparse_file(64 * MIB)
    rear = t.soft_disk(f"file path={image}", disk="rear")
    disk = t.soft_disk(f"vhost-user path={rear.socket} on-rear-loss=fail", disk="tap")
    guest = t.guest([disk.socket])
    read = "dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct"
    guest.check(read)
    rear.kill()
    wait_for("requests to fail", lambda: guest.run(read)[0] != 0)
    rear.restart()
    wait_for("requests to succeed", lambda: guest.run(read)[0] == 0)
