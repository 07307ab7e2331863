"""Guests with an IOMMU: we reach what they map, and no more."""

import time

from devtap_test import Disk, StorageDaemon, wait_for
from devtap_test.load import VerifiedLoad, fio_verify, kernel_errors

MIB = 1 << 20
# Only behind a port of its own has a virtio device ATS. Without that, QEMU does not tell a back end of a
# guest that takes back all at once.
INTEL = ("-device", "intel-iommu,device-iotlb=on,intremap=off", "-device", "pcie-root-port,id=root0")


def start(t, chain, packed=False, append="", queues=2, options=()):
    """A disk and a guest whose every transfer to it goes through the IOMMU."""
    disk = t.soft_disk(chain, disk="vm", options=("--iommu", "on", *options))
    guest = t.guest([Disk(disk.socket, queues=queues, packed=packed,
                          extra="bus=root0,iommu_platform=on,ats=on,disable-legacy=on")],
                    smp=2, before=INTEL, append=f"intel_iommu=on iommu=nopt {append}")
    features = int(disk.show()["front"]["features"], 16)
    assert features >> 33 & 1, f"ACCESS_PLATFORM is not among 0x{features:x}"
    return disk, guest


def translations(disk):
    """What the front counts of them."""
    return disk.show()["front"]["iommu"]


def test_strict(t):
    """Each request's memory is mapped before it, and taken back after it."""
    disk, guest = start(t, f"file path={t.sparse_file(64 * MIB)}", append="iommu.strict=1")
    fio_verify(guest, size="4m", jobs=2)
    seen = translations(disk)
    t.log(seen)
    assert seen["active"] and seen["misses"] > 100 and seen["invalidations"] > 100, seen
    t.equal(kernel_errors(guest), "")


def test_lazy_packed_two_threads(t):
    """The guest takes back much at once, and the rings with it; each of two threads has translations."""
    disk, guest = start(t, f"file path={t.sparse_file(64 * MIB)}", packed=True,
                        append="iommu.strict=0", options=("--threads-per-disk", "2", "--threads", "2"))
    fio_verify(guest, size="4m", jobs=2)
    seen = translations(disk)
    t.log(seen)
    assert seen["misses"] > 10 and seen["invalidations"] > 0, seen
    t.equal(kernel_errors(guest), "")


def test_workers_killed(t):
    """A successor knows no translation, and asks for each that it needs."""
    disk, guest = start(t, f"file path={t.sparse_file(64 * MIB)}", append="iommu.strict=1")
    load = VerifiedLoad(guest, jobs=2)
    for _ in range(5):
        load.goes_on()
        old = disk.kill_worker()
        wait_for("another worker", lambda: disk.worker() != old)
    load.goes_on()
    load.finish()
    guest.qmp.command("stop")
    guest.qmp.command("cont")
    fio_verify(guest, size="1m")
    t.equal(kernel_errors(guest), "")


def test_rear(t):
    """Before another back end: it serves in interpose, and passthrough is refused."""
    daemon = t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder, queues=2))
    disk, guest = start(t, f"vhost-user path={daemon.socket} on-rear-loss=fail",
                        append="iommu.strict=1")
    fio_verify(guest, size="2m")
    disk.refuses("IOMMU", "mode", disk.address, "passthrough")
    fio_verify(guest, size="2m")
    t.equal(kernel_errors(guest), "")


def test_unplugged_and_reset(t):
    """Rings come and go with the guest's driver, paused or not."""
    disk, guest = start(t, f"file path={t.sparse_file(64 * MIB)}", append="iommu.strict=1")
    for _ in range(3):
        guest.check("d=$(basename $(readlink -f /sys/block/vda/device)); cd /sys/bus/virtio/drivers/virtio_blk; "
                    "echo $d >unbind; echo $d >bind; cd /")
        wait_for("the disk", lambda: guest.run("test -b /dev/vda")[0] == 0)
        fio_verify(guest, size="1m")
    guest.qmp.command("stop")
    time.sleep(0.2)
    guest.qmp.command("cont")
    fio_verify(guest, size="1m")
    t.equal(kernel_errors(guest), "")
    t.equal(disk.show()["front"]["broken"], 0)


def test_virtio_iommu_bypassed(t):
    """QEMU's virtio-iommu before a guest without its driver (Debian's has none): all is let through, and told to us."""
    disk = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}", disk="vm", options=("--iommu", "on"))
    guest = t.guest([Disk(disk.socket, queues=2, extra="bus=root0,iommu_platform=on,ats=on,disable-legacy=on")], smp=2,
                    before=("-device", "virtio-iommu-pci", "-device", "pcie-root-port,id=root0"))
    fio_verify(guest, size="2m")
    seen = translations(disk)
    t.log(seen)
    assert seen["active"] and seen["updates"] > 0, seen
    t.equal(kernel_errors(guest), "")
