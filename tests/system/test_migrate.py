"""Live migration: two QEMUs, each on a devtap of its own, one image, a guest that works throughout.

Files are read from the disk and judged again and again, and fio verifies, while the memory goes over
in several rounds. Whether the dirty log tells all is another test: what is read right after it was
sent is judged at the destination.
"""

import hashlib
import os

from devtap_test import Disk, StorageDaemon
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, kernel_errors
from devtap_test.migration import MEMORY, migrate

MIB = 1 << 20

TREE = """set -e
mkfs.ext4 -q -F /dev/vda 96M
mkdir -p /mnt/t && mount /dev/vda /mnt/t
i=0; while [ $i -lt 48 ]; do
    head -c $((i * 30011 + 17)) /dev/urandom >/mnt/t/f$i; i=$((i + 1))
done
(cd /mnt/t && sha256sum f*) >/tmp/sums
"""

# The tree is read from the disk again and again, and judged each time.
READER = """
while [ ! -e /tmp/stop-reading ]; do
    echo 1 >/proc/sys/vm/drop_caches
    (cd /mnt/t && sha256sum -c /tmp/sums) >/tmp/read.log 2>&1 || { cp /tmp/read.log /tmp/misread; break; }
    echo pass >>/tmp/reads
done
echo done >/tmp/read-done
"""


def migrated(t, packed, queues):
    """A guest with verified load and a file tree moves, and comes back."""
    image = t.sparse_file(128 * MIB)

    def side(number):
        """A back end that does not claim the image for itself alone: two have it for a while."""
        disk = t.soft_disk(f"trace out={t.folder}/{number}.dtt | file path={image} lock=off",
                           name=f"devtap-{number}")
        return disk, Disk(disk.socket, queues=queues, packed=packed)

    disk, attached = side(0)
    guest = t.guest([attached], smp=2, mem=MEMORY)
    guest.check(TREE)
    load = VerifiedLoad(guest, jobs=queues, offset=96 * MIB)
    guest.check(f"cat >/tmp/reader.sh <<'SH'\n{READER}\nSH\n(sh /tmp/reader.sh >/dev/null 2>&1 &)")
    for number in (1, 2):
        next_disk, attached = side(number)
        destination = t.guest([attached], smp=2, mem=MEMORY, incoming=True)
        load.goes_on()
        reads = disk.operations("file", "read")
        figures = migrate(guest, destination)
        reads = disk.operations("file", "read") - reads
        t.log(f"migration {number}: downtime {figures['downtime']} ms, total "
              f"{figures['total-time']} ms, {figures['ram']['dirty-sync-count']} rounds, "
              f"{figures['ram']['transferred'] // MIB} MiB, {reads} reads meanwhile")
        assert figures["ram"]["dirty-sync-count"] >= 2, "all went over in one round"
        assert reads > 0, "nothing was read into memory during the migration"
        guest.close()
        t.equal(disk.stop(), 0, "the source's exit status")
        assert "broken" not in disk.output(), disk.output()
        next_disk.do("file", "lock")
        disk, guest, load.guest = next_disk, destination, destination
        load.goes_on()
    guest.check("touch /tmp/stop-reading; while [ ! -e /tmp/read-done ]; do sleep 0.2; done")
    t.equal(guest.run("test -e /tmp/misread && cat /tmp/misread"), (1, ""), "files read")
    passes = load.finish()
    guest.check("cd /mnt/t && sha256sum -c /tmp/sums >/dev/null")
    guest.check("umount /mnt/t; e2fsck -f -n /dev/vda")
    t.equal(kernel_errors(guest), "")
    t.log(f"{passes} passes of fio, {guest.check('wc -l </tmp/reads')} of the reader")


@limit(240)
def test_split(t):
    migrated(t, packed=False, queues=2)


@limit(240)
def test_packed(t):
    migrated(t, packed=True, queues=2)


# Keeps a processor writing to memory, so that the migration does not end by itself.
DIRT = "(while [ ! -e /tmp/clean ]; do head -c 8M /dev/urandom >/tmp/dirt; done >/dev/null 2>&1 &)"


def by_file(t, image):
    """Two disks that serve the image themselves."""
    return [t.soft_disk(f"file path={image} lock=off", name=f"devtap-{number}") for number in range(2)]


def logged(t, packed, make_disks=by_file, back="file", before=None, midway=None):
    """What the disk writes into memory that has gone over already arrives all the same.

    The page cache is filled from the disk after the first round: no processor touches those
    pages (the kernel is told not to clear them first), so only the dirty log can tell that they have
    to be sent again. At the destination they are judged without asking the disk.
    """
    size = 32 * MIB
    image = t.sparse_file(64 * MIB)
    content = os.urandom(size)
    with open(image, "r+b") as file:
        file.write(content)
    disks = make_disks(t, image)
    source, destination = (
        t.guest([Disk(disk.socket, packed=packed)], smp=2, mem=MEMORY, append="init_on_alloc=0",
                incoming=disk is disks[1]) for disk in disks)
    source.check(DIRT)
    source.check("(sleep 1000 </dev/vda >/dev/null 2>&1 &)")  # the cache lasts as long as the last user
    read = f"dd if=/dev/vda bs=1M count={size // MIB} 2>/dev/null"
    if before:
        before(disks[0])

    def between():
        source.check(f"{read} >/dev/null")
        if midway:
            midway(disks[0])

    migrate(source, destination, rounds=4, bandwidth=40 * MIB, midway=between)
    asked = disks[1].operations(back, "read")
    digest = destination.check(f"{read} | sha256sum", 60.0).split()[0]
    t.equal(disks[1].operations(back, "read"), asked, "reads from the disk: the cache was dropped")
    t.equal(digest, hashlib.sha256(content).hexdigest(), "what was read before the migration ended")
    destination.check("touch /tmp/clean")
    return disks, destination


@limit(180)
def test_log_rear(t):
    """A rear that keeps no dirty log, in passthrough: the tap serves the rings itself while pages are logged."""
    rears = []

    def taps(t, image):
        """A rear of its own for each side."""
        rears.extend(t.use(StorageDaemon(image, t.folder, locking=False)) for _ in range(2))
        return [t.soft_disk(f"vhost-user path={rear.socket} on-rear-loss=fail", disk=f"tap{number}")
                for number, rear in enumerate(rears)]

    def enter(disk):
        t.equal(disk.devtap("mode", disk.address, "passthrough").strip(), "passthrough")

    def forced(disk):
        front = disk.show()["front"]
        t.equal((front["mode"], front["mode_wanted"]), ("interpose", "passthrough"))
        assert "migration" in front["mode_because"], front
        assert disk.operations("vhost-user", "read") > 0, "nothing went through the chain"

    disks, guest = logged(t, False, taps, "vhost-user", enter, forced)
    enter(disks[1])
    guest.check("echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=1M count=8")
    assert disks[1].show()["front"]["passed_through"] > 0, disks[1].show()["front"]


@limit(120)
def test_log_split(t):
    logged(t, packed=False)


@limit(120)
def test_log_packed(t):
    logged(t, packed=True)
