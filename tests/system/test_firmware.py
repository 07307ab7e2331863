"""Firmware reads the soft disk with drivers of its own and boots Debian from it."""

from devtap_test import Disk
from devtap_test.case import limit


def boots(t, firmware, extra="", packed=False):
    """Firmware, GRUB and kernel read the disk; Debian works on it and finds its data again."""
    disk = t.soft_disk(f"file path={t.debian_disk()}")
    options = {"root": "image", "firmware": firmware, "smp": 2, "packed": packed,
               "boot_timeout": 240}
    with t.guest([Disk(disk.socket, extra=extra)], **options) as guest:
        assert "GRUB reads the disk" in guest.console.text
        t.log(f"login after {guest.boot_seconds:.1f} s")
        efi = "yes" if firmware == "ovmf" else "no"
        t.equal(guest.check("test -d /sys/firmware/efi && echo yes || echo no"), efi, "EFI")
        t.equal(guest.check("findmnt -no SOURCE /"), "/dev/vda2")
        guest.check("echo kept >/root/note; sync; echo 3 >/proc/sys/vm/drop_caches; "
                    "dpkg --verify coreutils e2fsprogs | grep -v /usr/share/ || true")
        t.equal(guest.power_off(), 0, "QEMU's exit status")
    with t.guest([Disk(disk.socket, extra=extra)], **options) as guest:
        t.equal(guest.check("cat /root/note"), "kept")


@limit(600)
def test_seabios(t):
    boots(t, firmware=None)


@limit(600)
def test_seabios_packed(t):
    boots(t, firmware=None, packed=True)


@limit(600)
def test_ovmf(t):
    """Virtio 1, as behind the PCIe root port where libvirt puts a disk."""
    boots(t, firmware="ovmf", extra="disable-legacy=on")


@limit(600)
def test_ovmf_legacy(t):
    """Virtio 0.9: what OVMF speaks to a disk that a plain `-device` puts on the root bus.

    The driver accepts neither VERSION_1 nor, before Linux starts, EVENT_IDX.
    """
    boots(t, firmware="ovmf")
