"""Firmware reads the soft disk with drivers of its own and boots Debian from it.

Each firmware boots twice, another way the second time: what the first boot left is there, and both ways are tried.
"""

from devtap_test import Disk
from devtap_test.case import limit


def boot(t, disk, firmware, extra="", packed=False):
    """A guest whose firmware, GRUB and kernel have read the disk."""
    guest = t.guest([Disk(disk.socket, extra=extra)], root="image", firmware=firmware, smp=2, packed=packed)
    assert "GRUB reads the disk" in guest.console.text
    t.log(f"login after {guest.boot_seconds:.1f} s")
    efi = "yes" if firmware == "ovmf" else "no"
    t.equal(guest.check("test -d /sys/firmware/efi && echo yes || echo no"), efi, "EFI")
    t.equal(guest.check("findmnt -no SOURCE /"), "/dev/vda2")
    return guest


def boots(t, firmware, first, second):
    """Debian works on the disk, and finds its data again when it has been booted the second way."""
    disk = t.soft_disk(f"file path={t.debian_disk()}")
    with boot(t, disk, firmware, **first) as guest:
        guest.check("echo kept >/root/note; sync; echo 3 >/proc/sys/vm/drop_caches; "
                    "dpkg --verify coreutils e2fsprogs | grep -v /usr/share/ || true")
        t.equal(guest.power_off(), 0, "QEMU's exit status")
    with boot(t, disk, firmware, **second) as guest:
        t.equal(guest.check("cat /root/note"), "kept")


@limit(600)
def test_seabios(t):
    """Split rings, then packed."""
    boots(t, None, {}, {"packed": True})


@limit(600)
def test_ovmf(t):
    """Virtio 1, as behind the PCIe root port where libvirt puts a disk; then virtio 0.9: what OVMF speaks to a
    disk that a plain `-device` puts on the root bus.

    The driver then accepts neither VERSION_1 nor, before Linux starts, EVENT_IDX.
    """
    boots(t, "ovmf", {"extra": "disable-legacy=on"}, {})
