"""Passthrough and back, under a guest that works on."""

import random
import time

from devtap_test import Disk, StorageDaemon, wait_for
from devtap_test.load import VerifiedLoad, fio_verify, kernel_errors

MIB = 1 << 20


def front(disk):
    """What `devtap show` tells of the front."""
    return disk.show()["front"]


def mode(disk, wanted):
    """Changes the mode, which must succeed at once."""
    said = disk.devtap("mode", disk.address, wanted).strip()
    assert said == wanted, f"asked for {wanted}: {said}"


def changed_at_random(t, rear, options="", changes=40, packed=False):
    """A load that verifies what it wrote, while the rings go back and forth."""
    disk = t.soft_disk(f"trace out={t.folder}/t.dtt | vhost-user path={rear.socket} {options}",
                       disk="tap")
    guest = t.guest([Disk(disk.socket, queues=2, packed=packed)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    dice = random.Random(4)
    for number in range(changes):
        mode(disk, ("passthrough", "interpose")[number % 2])
        time.sleep(dice.random() * 0.2)
    load.check("after the changes")
    mode(disk, "passthrough")
    seen = disk.operations("vhost-user", "write")
    load.goes_on()
    t.equal(disk.operations("vhost-user", "write"), seen, "writes that our chain saw")
    load.finish()
    shown = front(disk)
    assert shown["mode_changes"] >= changes, shown
    assert shown["passed_through"] > 0, shown
    t.equal(kernel_errors(guest), "")
    return disk, guest


def test_devtap(t):
    """Another devtap as the rear; then the VM is paused and reset in passthrough."""
    rear = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}", disk="rear")
    disk, guest = changed_at_random(t, rear)
    guest.qmp.command("stop")
    wait_for("the rings to be given back", lambda: front(disk)["mode"] == "interpose")
    guest.qmp.command("cont")
    fio_verify(guest, size="4m")
    wait_for("passthrough again", lambda: front(disk)["mode"] == "passthrough")
    t.equal(kernel_errors(guest), "")


def test_packed(t):
    """The same with packed rings."""
    rear = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}", disk="rear")
    changed_at_random(t, rear, packed=True)


def test_storage_daemon(t):
    """qemu-storage-daemon keeps no log, and answers a stop before it has drained."""
    daemon = t.use(StorageDaemon(t.sparse_file(128 * MIB), t.folder, queues=2))
    changed_at_random(t, daemon, "on-rear-loss=fail")


def test_refused(t):
    """What cannot be is said at once, and changes nothing."""
    daemon = t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder))
    disk = t.soft_disk(f"vhost-user path={daemon.socket}", disk="tap")
    guest = t.guest([Disk(disk.socket)], smp=2)
    disk.refuses("on-rear-loss=fail", "mode", disk.address, "passthrough")
    t.equal(front(disk)["mode_wanted"], "interpose")
    disk.set("vhost-user", **{"on-rear-loss": "fail"})
    mode(disk, "passthrough")
    fio_verify(guest, size="4m")


def test_two_queues_one_queue(t):
    """A guest with more queues than the rear has."""
    daemon = t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder, queues=1))
    disk = t.soft_disk(f"vhost-user path={daemon.socket} on-rear-loss=fail", disk="tap")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    fio_verify(guest, size="2m", jobs=2)
    disk.refuses("queue", "mode", disk.address, "passthrough")
    fio_verify(guest, size="2m", jobs=2)


def test_killed_in_passthrough(t):
    """The rear, then our worker, then both, while the rear has the rings."""
    rear = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}", disk="rear")
    disk = t.soft_disk(f"vhost-user path={rear.socket}", disk="tap")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    mode(disk, "passthrough")
    load.survives_rear(disk, rear, 3, lambda: wait_for(
        "passthrough", lambda: front(disk)["mode"] == "passthrough"))
    load.finish()
    t.equal(kernel_errors(guest), "")


def test_lost_without_log(t):
    """A rear without a log dies in passthrough: the session ends, and the reason says why."""
    daemon = t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder))
    disk = t.soft_disk(f"vhost-user path={daemon.socket} on-rear-loss=fail", disk="tap")
    guest = t.guest([Disk(disk.socket)])
    guest.check("dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct")
    mode(disk, "passthrough")
    daemon.kill()
    wait_for("the session to end", lambda: "kept no in-flight log" in disk.output())
    t.equal(front(disk)["mode"], "interpose")
