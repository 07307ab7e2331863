"""Debian's kernel and tools on a soft disk: file systems, verified load, discard, resize."""

from devtap_test import Disk, wait_for
from devtap_test.load import file_system, fio_verify, kernel_errors, noise

MIB = 1 << 20


def work(t, queues, packed, kind):
    """A file system and verified raw load, all through a chain."""
    image = t.sparse_file(512 * MIB)
    disk = t.soft_disk(f"trace out={t.folder}/trace.dtt | file path={image}")
    guest = t.guest([Disk(disk.socket, queues=queues, packed=packed)], smp=4)
    t.equal(guest.check("cat /sys/block/vda/size"), str(512 * MIB // 512), "sectors")
    t.equal(guest.check("ls /sys/block/vda/mq | wc -l"), str(queues), "hardware queues")
    file_system(guest, kind)
    fio_verify(guest, jobs=queues, size="24m")
    t.equal(kernel_errors(guest), "")


def test_split_1_queue(t):
    work(t, queues=1, packed=False, kind="ext4")


def test_split_4_queues(t):
    work(t, queues=4, packed=False, kind="xfs")


def test_packed_1_queue(t):
    work(t, queues=1, packed=True, kind="xfs")


def test_packed_4_queues(t):
    work(t, queues=4, packed=True, kind="ext4")


def test_plain_rings(t):
    """Long rings with flags for notification instead of EVENT_IDX, and no indirect tables."""
    disk = t.soft_disk(f"file path={t.sparse_file(256 * MIB)}")
    guest = t.guest([Disk(disk.socket, event_idx=False, queue_size=256,
                          extra="indirect_desc=off")], smp=2)
    fio_verify(guest)
    t.equal(kernel_errors(guest), "")


def test_two_disks(t):
    """Each disk of a guest keeps its own data."""
    disks = [t.soft_disk(f"file path={t.sparse_file(64 * MIB, name + '.img')}", disk=name)
             for name in ("one", "two")]
    guest = t.guest([disk.socket for disk in disks], smp=2)
    guest.check("for d in a b; do yes $d | head -c 8M | dd of=/dev/vd$d bs=1M oflag=direct "
                "iflag=fullblock; done; echo 3 >/proc/sys/vm/drop_caches")
    for letter in "ab":
        t.equal(guest.check(f"yes {letter} | head -c 8M | cmp -n 8388608 - /dev/vd{letter}"), "")


def blocks(path):
    """Bytes that a sparse file really occupies."""
    return path.stat().st_blocks * 512


def test_discard(t):
    """Discard and write-zeroes give the blocks of the backing file back."""
    image = t.sparse_file(256 * MIB)
    disk = t.soft_disk(f"file path={image}")
    guest = t.guest([disk.socket])
    guest.check(f"{noise(64)} | dd of=/dev/vda bs=1M oflag=direct iflag=fullblock")
    assert blocks(image) >= 64 * MIB, f"only {blocks(image)} bytes written"
    guest.check("blkdiscard -o 0 -l 32M /dev/vda")
    assert blocks(image) <= 33 * MIB, f"discard left {blocks(image)} bytes"
    guest.check("blkdiscard -z -o 32M -l 32M /dev/vda; echo 3 >/proc/sys/vm/drop_caches")
    t.equal(guest.check("head -c 64M /dev/zero | cmp -n 67108864 - /dev/vda"), "")
    assert blocks(image) <= 33 * MIB, f"write-zeroes left {blocks(image)} bytes"
    guest.check(f"""set -e; mkfs.ext4 -q -F /dev/vda; mkdir -p /mnt/t; mount /dev/vda /mnt/t
        {noise(48)} >/mnt/t/f; sync""")
    full = blocks(image)
    guest.check("rm /mnt/t/f; sync; fstrim /mnt/t; sync; umount /mnt/t")
    assert blocks(image) < full - 44 * MIB, f"fstrim freed only {full - blocks(image)} bytes"
    t.equal(kernel_errors(guest), "")


def test_resize(t):
    """The guest sees a disk grow while it uses it, and its file system can follow."""
    image = t.sparse_file(128 * MIB)
    disk = t.soft_disk(f"file path={image}")
    guest = t.guest([disk.socket])
    guest.check("mkfs.ext4 -q -F /dev/vda; mkdir -p /mnt/t; mount /dev/vda /mnt/t; "
                f"{noise(20)} >/mnt/t/f; sha256sum /mnt/t/f >/tmp/sum")
    disk.resize(256 * MIB)
    wait_for("the guest to see the new size",
             lambda: guest.check("cat /sys/block/vda/size") == str(256 * MIB // 512))
    guest.check("resize2fs /dev/vda; head -c 150M /dev/zero >/mnt/t/g; sync; "
                "sha256sum -c /tmp/sum; umount /mnt/t; e2fsck -f -n /dev/vda")
    t.equal(kernel_errors(guest), "")
