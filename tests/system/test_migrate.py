"""Live migration: two QEMUs, each on a devtap of its own, one image, a guest that works throughout.

Files are read from the disk and judged again and again, and fio verifies, while the memory goes over
in several rounds. (This does not yet depend on the dirty log: a read is judged too soon after it.)
"""

from devtap_test import Disk
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
