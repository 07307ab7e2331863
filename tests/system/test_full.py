"""A file system that fills up below a VM: its writes wait, and it hears of no error."""

import ctypes
import os
import signal
import time

from devtap_test import Disk, wait_for
from devtap_test.load import kernel_errors, noise

MIB = 1 << 20
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def small_file_system(t, size):
    """A folder with a tmpfs of `size` bytes, which ends with the test's process."""
    folder = t.folder / "small"
    folder.mkdir()
    if (_libc.unshare(CLONE_NEWNS) < 0 or
            _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) < 0 or
            _libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode()) < 0):
        t.skip(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")
    return folder


def full_disk(t, chain="", back="", run=(), **options):
    """A disk of 64 MiB where there is space for 8, and 32 more in the file `ballast`."""
    folder = small_file_system(t, 40 * MIB)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(32 * MIB))
    image = folder / "disk.img"
    with open(image, "xb") as file:
        file.truncate(64 * MIB)
    disk = t.soft_disk(f"{chain}file path={image} {back}", options=run)
    smp = options.get("queues", 1)
    return disk, t.guest([Disk(disk.socket, **options)], smp=smp), ballast


WRITE = f"""{noise(24)} >/tmp/data
(dd if=/tmp/data of=/dev/vda bs=256k oflag=direct >/tmp/dd.log 2>&1; echo $? >/tmp/dd.status) &
"""


def wait_for_events(disk, name, count=1):
    """Until `count` lines about the event are in the log."""
    wait_for(f"the event '{name}'", lambda: disk.output().count(f"event={name} ") >= count)


def wait_for_write(guest, status="0"):
    """Until dd has ended, as it should."""
    wait_for("the end of the write", lambda: guest.run("test -e /tmp/dd.status")[0] == 0)
    assert guest.check("cat /tmp/dd.status") == status, guest.check("cat /tmp/dd.log")


def right_content(t, guest):
    """What was written is on the disk, and the kernel has seen no error."""
    t.equal(guest.check("cmp -n 25165824 /tmp/data /dev/vda"), "")
    t.equal(kernel_errors(guest), "")


def test_held(t):
    """Writes wait while there is no space, reads and flushes do not; then they go through."""
    disk, guest, ballast = full_disk(t)
    guest.check(WRITE)
    wait_for_events(disk, "full")
    guest.check("dd if=/dev/vda of=/tmp/read bs=1M count=4 iflag=direct && "
                "cmp -n 4194304 /tmp/data /tmp/read")
    assert disk.stats()["file"]["holding"] > 0, "nothing is held"
    assert guest.run("test -e /tmp/dd.status")[0] == 1, "the write has ended"
    assert "resumed" not in disk.output(), disk.output()
    ballast.unlink()
    wait_for_write(guest)
    wait_for_events(disk, "resumed")
    right_content(t, guest)
    t.equal(disk.output().count("event=full "), 1, "events of one shortage")


def test_fail(t):
    """on-full=fail: the guest is told; and `set` changes it while it runs."""
    disk, guest, ballast = full_disk(t, back="on-full=fail")
    guest.check(WRITE)
    wait_for_write(guest, "1")
    assert "error" in guest.check("cat /tmp/dd.log").lower(), "dd did not complain"
    assert "I/O error" in guest.check("dmesg | grep vda"), "the guest's kernel did not complain"
    guest.check("dmesg -c >/dev/null; rm /tmp/dd.status")
    disk.set("file", **{"on-full": "hold"})
    guest.check(WRITE)
    wait_for_events(disk, "full")
    ballast.unlink()
    wait_for_write(guest)
    right_content(t, guest)


def test_killed_while_full(t):
    """A held write is in flight: who takes over tries it too."""
    disk, guest, ballast = full_disk(t, reconnect=1)
    guest.check(WRITE)
    wait_for_events(disk, "full")
    disk.kill()
    disk.restart()
    wait_for_events(disk, "full", 2)
    ballast.unlink()
    wait_for_write(guest)
    right_content(t, guest)


def test_stopped_while_full(t):
    """Nor does the guest pay for an orderly stop: what cannot be finished is left in flight."""
    disk, guest, ballast = full_disk(t, reconnect=1, run=["--single"])
    guest.check(WRITE)
    wait_for_events(disk, "full")
    disk.child.send_signal(signal.SIGTERM)
    wait_for("the stop", lambda: "stopping" in disk.output())
    time.sleep(1.0)
    assert disk.running(), "it gave up"
    disk.child.send_signal(signal.SIGTERM)
    disk.child.wait(120)
    ballast.unlink()
    disk.restart()
    wait_for_write(guest)
    right_content(t, guest)


def test_space_while_stopping(t):
    """Space that appears while the process stops lets it end in good order."""
    disk, guest, ballast = full_disk(t, reconnect=1)
    guest.check(WRITE)
    wait_for_events(disk, "full")
    disk.child.send_signal(signal.SIGTERM)
    wait_for("the stop", lambda: "stopping" in disk.output())
    ballast.unlink()
    t.equal(disk.child.wait(120), 0, "exit status")
    disk.restart()
    wait_for_write(guest)
    right_content(t, guest)


def paused(t, disk, guest, ballast, wait, write=WRITE):
    """The VM is stopped while writes are held, and goes on; then there is space."""
    guest.check(write)
    wait_for_events(disk, "full")
    for _ in range(3):
        guest.qmp.command("stop")
        time.sleep(0.3)
        guest.qmp.command("cont")
        wait_for("the guest", lambda: guest.run("true")[0] == 0)
        assert guest.run("test -e /tmp/dd.status")[0] == 1, guest.check("cat /tmp/dd.log")
        wait(disk)
    ballast.unlink()
    wait_for_write(guest)
    right_content(t, guest)


def holds_again(disk):
    """The requests that were in the ring are held again."""
    wait_for("held writes", lambda: disk.stats()["file"]["holding"] > 0)


def test_paused_while_full(t):
    """A VM that is paused and goes on does not hear of it either."""
    disk, guest, ballast = full_disk(t)
    paused(t, disk, guest, ballast, holds_again)
    assert "were not served stay in the ring" in disk.output(), disk.output()


def test_paused_packed(t):
    """A packed ring takes them back as well."""
    disk, guest, ballast = full_disk(t, packed=True)
    paused(t, disk, guest, ballast, holds_again)
    assert "were not served stay in the ring" in disk.output(), disk.output()


def test_paused_with_two_queues(t):
    """QEMU stops one queue after the other: what is held for the second does not fail with the first."""
    disk, guest, ballast = full_disk(t, queues=2)
    paused(t, disk, guest, ballast, holds_again, f"""{noise(24)} >/tmp/data
        (for half in 0 1; do
            taskset -c $half dd if=/tmp/data of=/dev/vda bs=256k count=48 skip=$((48 * half)) \\
                seek=$((48 * half)) oflag=direct >/tmp/dd.log.$half 2>&1 & pids="$pids $!"
        done
        for pid in $pids; do wait $pid || bad=1; done
        cat /tmp/dd.log.* >/tmp/dd.log; echo ${{bad:-0}} >/tmp/dd.status) &
        """)
    assert "queue 1: requests that were not served stay" in disk.output(), disk.output()


def test_paused_then_killed_while_full(t):
    """What went back to the ring is not in any log, and who takes over finds it all the same."""
    disk, guest, ballast = full_disk(t)

    def kill(disk):
        disk.kill_worker()
        wait_for("a successor", disk.attached)
        holds_again(disk)
    paused(t, disk, guest, ballast, kill)


def test_upgrade_while_full(t):
    """Nor does an upgrade fail what is held."""
    disk, guest, ballast = full_disk(t)
    guest.check(WRITE)
    wait_for_events(disk, "full")
    disk.devtap("upgrade", disk.disk)
    holds_again(disk)
    assert guest.run("test -e /tmp/dd.status")[0] == 1, guest.check("cat /tmp/dd.log")
    ballast.unlink()
    wait_for_write(guest)
    right_content(t, guest)
