"""What an administrator does to a disk in use: restart, change, resize it. The guest works on."""

import time

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, fio_verify, kernel_errors

MIB = 1 << 20


def restarted(t, packed):
    """SIGTERM under verified load, and the same command again; QEMU reconnects."""
    disk = t.soft_disk(f"delay ops=read,write time=5ms | file path={t.sparse_file(128 * MIB)}")
    guest = t.guest([Disk(disk.socket, queues=2, packed=packed, reconnect=1)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    for number in range(1, 6):
        load.goes_on()
        t.equal(disk.stop(), 0, f"exit status of stop {number}")
        load.check(f"after {number} stops")
        disk.restart()
    load.goes_on()
    passes = load.finish()
    t.equal(kernel_errors(guest), "")
    t.log(f"{passes} passes of fio")


def test_split(t):
    restarted(t, packed=False)


def test_packed(t):
    restarted(t, packed=True)


def test_changes_under_load(t):
    """set, do and resize, again and again, while the guest writes and verifies."""
    image = t.sparse_file(128 * MIB)
    disk = t.soft_disk(f"trace out={t.folder}/t.dtt | throttle | delay time=0ms | file path={image}")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    size = 128 * MIB
    for number in range(8):
        load.goes_on()
        disk.set("throttle", iops=300 + number, bps="8M")
        disk.set("delay", time=f"{number}ms")
        disk.set("file", **{"on-full": ("fail", "hold")[number % 2], "queue-depth": number})
        disk.do("file", "rescan")
        size += 4 * MIB
        disk.resize(size)
        wait_for("the guest to see the new size",
                 lambda: guest.check("cat /sys/block/vda/size") == str(size // 512))
        load.check(f"after change {number}")
        disk.set("throttle", iops=0, bps=0)
    disk.set("delay", time="0ms")
    disk.set("file", **{"queue-depth": 0})
    load.finish()
    t.equal(image.stat().st_size, size, "size of the image")
    t.equal(kernel_errors(guest), "")


@limit(240)
def test_two_guests_two_threads(t):
    """Two VMs on one process; one of them comes and goes, which the other must not notice."""
    images = [t.sparse_file(96 * MIB, f"{name}.img") for name in ("a", "b")]
    disk = t.soft_disk(f"file path={images[0]}", disk="a", options=["--threads", 2],
                       more={"b": f"file path={images[1]}"})
    first = t.guest([Disk(disk.sockets["a"], queues=2)], smp=2, mem="384M")
    load = VerifiedLoad(first, jobs=2)
    second = t.guest([Disk(disk.sockets["b"], queues=2, packed=True)], smp=2, mem="384M")
    fio_verify(second, jobs=2, size="8m")
    t.equal(kernel_errors(second), "")
    second.process.kill()
    started = time.monotonic()
    load.goes_on()
    t.log(f"after the kill of the other VM: {time.monotonic() - started:.1f} s for 20 requests")
    third = t.guest([disk.sockets["b"]], root="initramfs")
    third.check("dd if=/dev/vda of=/dev/null bs=1M count=8")
    load.finish()
    t.equal(kernel_errors(first), "")


def test_threads_per_disk(t):
    """The four queues of one disk on two threads."""
    disk = t.soft_disk(f"throttle iops=100k | file path={t.sparse_file(128 * MIB)}",
                       options=["--threads", 2, "--threads-per-disk", 2])
    guest = t.guest([Disk(disk.socket, queues=4)], smp=4)
    fio_verify(guest, jobs=4, size="16m")
    t.equal(kernel_errors(guest), "")
