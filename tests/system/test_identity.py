"""What a guest is told about its disk: name, sizes, limits, write cache."""

MIB = 1 << 20


def queue(guest, device, name):
    """A number of a block queue of the guest's."""
    return int(guest.check(f"cat /sys/block/{device}/queue/{name}"))


def test_told(t):
    """One guest with a disk of each kind."""
    images = [t.sparse_file(64 * MIB, f"{name}.img") for name in "abcd"]
    disks = [t.soft_disk(f"file path={images[0]}", disk="vm1"),
             t.soft_disk(f"file path={images[1]}", disk="vm2", options=["--serial", "DT-20-characters-abc"]),
             t.soft_disk(f"file path={images[2]} block-size=4096", disk="vm3"),
             t.soft_disk(f"readonly | file path={images[3]}", disk="vm4")]
    guest = t.guest([disk.socket for disk in disks])
    check_serial(t, guest)
    check_limits(t, guest)
    check_block_sizes(t, guest)
    check_write_cache(t, guest, disks[0])
    check_readonly(t, guest, images[3])


def check_serial(t, guest):
    """The serial number is the one that was given, or the disk's name."""
    t.equal(guest.check("cat /sys/block/vda/serial"), "vm1")
    t.equal(guest.check("cat /sys/block/vdb/serial"), "DT-20-characters-abc")


def check_block_sizes(t, guest):
    """A disk of 4 KiB blocks is one in the guest too, and works."""
    t.equal(queue(guest, "vdc", "logical_block_size"), 4096)
    t.equal(queue(guest, "vdc", "physical_block_size"), 4096)
    guest.check("mkfs.ext4 -q -F /dev/vdc && mkdir /mnt/t && mount /dev/vdc /mnt/t && "
                "umount /mnt/t")


def check_limits(t, guest):
    """Discard and write-zeroes are offered with limits that a kernel can use."""
    t.equal(queue(guest, "vda", "logical_block_size"), 512)
    assert queue(guest, "vda", "discard_max_bytes") >= MIB, "no discard"
    assert queue(guest, "vda", "discard_granularity") >= 512, "no discard granularity"
    assert queue(guest, "vda", "write_zeroes_max_bytes") >= MIB, "no write-zeroes"
    assert queue(guest, "vda", "max_segments") >= 32, "few segments"


def check_write_cache(t, guest, disk):
    """The guest turns the write cache off and on; flushes come only while it is on."""
    write = "dd if=/dev/zero of=/dev/vda bs=4k count=8 conv=fsync"
    t.equal(guest.check("cat /sys/block/vda/cache_type"), "write back")
    guest.check(write)
    flushes = disk.operations("file", "flush")
    assert flushes > 0, "no flush arrived"
    guest.check("echo 'write through' >/sys/block/vda/cache_type")
    t.equal(guest.check("cat /sys/block/vda/cache_type"), "write through")
    flushes = disk.operations("file", "flush")
    guest.check(write)
    t.equal(disk.operations("file", "flush"), flushes, "flushes in write-through mode")
    guest.check("echo 'write back' >/sys/block/vda/cache_type")
    guest.check(write)
    assert disk.operations("file", "flush") > flushes, "no flush after write back"


def check_readonly(t, guest, image):
    """A read-only disk is read-only in the guest, and stays as it was."""
    t.equal(guest.check("cat /sys/block/vdd/ro"), "1")
    status, _ = guest.run("dd if=/dev/zero of=/dev/vdd bs=4k count=1 oflag=direct")
    assert status != 0, "a write succeeded"
    guest.check("dd if=/dev/vdd of=/dev/null bs=1M")
    t.equal(image.stat().st_blocks, 0, "blocks written")
