"""The harness itself, on somebody else's back end: what fails here is not devtap's fault."""

from devtap_test import Disk, StorageDaemon
from devtap_test.load import file_system, fio_verify, kernel_errors

MIB = 1 << 20


def check(t, queues, packed):
    """A guest makes a file system and verifies data on qemu-storage-daemon's disk."""
    daemon = t.use(StorageDaemon(t.sparse_file(256 * MIB), t.folder, queues=queues))
    guest = t.guest([Disk(daemon.socket, queues=queues, packed=packed)], smp=2)
    t.equal(guest.check("cat /sys/block/vda/size"), str(256 * MIB // 512), "sectors")
    t.equal(guest.check("ls /sys/block/vda/mq | wc -l"), str(min(queues, 2)), "hardware queues")
    file_system(guest, "ext4")
    fio_verify(guest)
    t.equal(kernel_errors(guest), "")


def test_split_1_queue(t):
    check(t, queues=1, packed=False)


def test_packed_4_queues(t):
    check(t, queues=4, packed=True)


def test_commands(t):
    """Long commands, odd characters, exit status and time-outs survive the serial port."""
    guest = t.guest(root="initramfs")
    t.equal(guest.run("exit 7"), (7, ""))
    t.equal(guest.run("echo \"a'b$((1+1))\\\\\"; false"), (1, "a'b2\\\n"))
    text = "x" * 20000
    t.equal(guest.check(f"echo {text} | wc -c"), "20001")
    t.equal(len(guest.check("seq 1 20000")), 108893)
    try:
        guest.run("sleep 3; echo late", timeout=1)
        raise AssertionError("no time-out")
    except TimeoutError:
        pass
    t.equal(guest.check("echo soon", timeout=120), "soon")
    t.equal(guest.power_off(), 0, "QEMU's exit status")
