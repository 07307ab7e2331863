"""What a guest is told about its disk: name, sizes, limits, write cache."""

MIB = 1 << 20


def queue(guest, name):
    """A number of the guest's block queue."""
    return int(guest.check(f"cat /sys/block/vda/queue/{name}"))


def test_serial(t):
    """The serial number is the one that was given, or the disk's name."""
    image = t.sparse_file(64 * MIB)
    named = t.soft_disk(f"file path={image}", disk="vm1")
    other = t.soft_disk(f"file path={t.sparse_file(64 * MIB, 'b.img')}", disk="vm2",
                        options=["--serial", "DT-20-characters-abc"])
    guest = t.guest([named.socket, other.socket], root="initramfs")
    t.equal(guest.check("cat /sys/block/vda/serial"), "vm1")
    t.equal(guest.check("cat /sys/block/vdb/serial"), "DT-20-characters-abc")


def test_block_sizes(t):
    """A disk of 4 KiB blocks is one in the guest too, and works."""
    disk = t.soft_disk(f"file path={t.sparse_file(64 * MIB)} block-size=4096")
    guest = t.guest([disk.socket])
    t.equal(queue(guest, "logical_block_size"), 4096)
    t.equal(queue(guest, "physical_block_size"), 4096)
    guest.check("mkfs.ext4 -q -F /dev/vda && mkdir /mnt/t && mount /dev/vda /mnt/t && "
                "umount /mnt/t")


def test_limits(t):
    """Discard and write-zeroes are offered with limits that a kernel can use."""
    disk = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}")
    guest = t.guest([disk.socket], root="initramfs")
    t.equal(queue(guest, "logical_block_size"), 512)
    assert queue(guest, "discard_max_bytes") >= MIB, "no discard"
    assert queue(guest, "discard_granularity") >= 512, "no discard granularity"
    assert queue(guest, "write_zeroes_max_bytes") >= MIB, "no write-zeroes"
    assert queue(guest, "max_segments") >= 32, "few segments"


def test_write_cache(t):
    """The guest turns the write cache off and on; flushes come only while it is on."""
    disk = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}")
    guest = t.guest([disk.socket])
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


def test_readonly(t):
    """A read-only disk is read-only in the guest, and stays as it was."""
    image = t.sparse_file(64 * MIB)
    disk = t.soft_disk(f"readonly | file path={image}")
    guest = t.guest([disk.socket])
    t.equal(guest.check("cat /sys/block/vda/ro"), "1")
    status, _ = guest.run("dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct")
    assert status != 0, "a write succeeded"
    guest.check("dd if=/dev/vda of=/dev/null bs=1M")
    t.equal(image.stat().st_blocks, 0, "blocks written")
