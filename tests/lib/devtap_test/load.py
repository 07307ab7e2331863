"""Loads that a guest puts on a disk."""


def fio_verify(guest, device="/dev/vda", size="32m", depth=16, jobs=1, mix="randrw", timeout=120.0,
               options=""):
    """Writes and verifies by CRC32C with fio on a raw device; fails on any mismatch.

    Each job has an area of its own: writers must not overlap while verifying.
    """
    return guest.check(
        f"fio --name=verify --filename={device} --ioengine=libaio --direct=1 --rw={mix}"
        f" --bsrange=4k-64k --iodepth={depth} --numjobs={jobs} --size={size}"
        f" --offset_increment={size} --verify=crc32c --verify_fatal=1 --verify_backlog=64"
        f" --randseed=7 --group_reporting --output-format=terse {options}", timeout)


def file_system(guest, kind="ext4", device="/dev/vda", files=64, timeout=120.0):
    """Makes a file system, writes a tree, reads it back cold, and checks the file system."""
    force = "-F -q" if kind == "ext4" else "-f -q"
    check = f"e2fsck -f -n {device}" if kind == "ext4" else f"xfs_repair -n {device}"
    guest.check(f"""set -e
        mkfs.{kind} {force} {device}
        mkdir -p /mnt/t && mount -t {kind} {device} /mnt/t
        i=0; while [ $i -lt {files} ]; do
            mkdir -p /mnt/t/d$((i % 8))
            head -c $((i * 3001 + 17)) /dev/urandom >/mnt/t/d$((i % 8))/f$i; i=$((i + 1))
        done
        (cd /mnt/t && find . -type f -exec sha256sum {{}} +) >/tmp/sums
        umount /mnt/t; echo 3 >/proc/sys/vm/drop_caches
        mount -t {kind} {device} /mnt/t
        (cd /mnt/t && sha256sum -c /tmp/sums >/dev/null)
        rm -r /mnt/t/d0; sync; umount /mnt/t
        {check}""", timeout)


def kernel_errors(guest):
    """The guest kernel's complaints about disks: empty when all is well."""
    _, text = guest.run("dmesg | grep -i -E 'I/O error|blk_update|critical|EXT4-fs error|"
                        "XFS.*(error|corrupt)|Buffer I/O|hung task|blocked for more' || true")
    return text.strip()
