"""A VM asks for snapshots of its own disks: cvd guest on the host, cvd-guest in the VM."""

import json
import os
import signal
import subprocess

from devtap_test import wait_for
from devtap_test.pool import PoolProcess, binary, check, cvd
from devtap_test.process import Process


def tool():
    """The program for VMs."""
    return os.path.join(os.path.dirname(binary()), "guest", "cvd-guest")


def port(path):
    """QEMU's options for it, and a disk with the program."""
    return ["-device", "virtio-serial-pci",
            "-chardev", f"socket,id=cvd,path={path},server=on,wait=off",
            "-device", "virtserialport,chardev=cvd,name=org.devtap.cvd",
            "-drive", f"file={tool()},format=raw,if=virtio,readonly=on,file.locking=off"]


def snapshots(pool, disk):
    """Names of a disk's snapshots."""
    return [s["name"] for s in json.loads(cvd("snaps", f"{pool}/{disk}", "--json"))]


def judge(pool, name, folder):
    """What e2fsck says of a snapshot, and whether its journal is empty."""
    image = folder / f"{name}.raw"
    cvd("export", f"{pool}/{name}", image)
    text = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True).stdout
    fsck = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    return fsck.returncode, "needs_recovery" not in text, image


def test_snapshots(t):
    """Two disks at one moment, with the file system frozen, and thawed whatever happens."""
    pool, path = t.folder / "pool", t.folder / "port"
    cvd("pool", "create", pool, "--size", "512M")
    for name in ("vm", "vm-data"):
        cvd("create", f"{pool}/{name}", "--size", "64M")
    process = t.use(PoolProcess(pool, t.folder))
    disks = [t.soft_disk(f"cvd pool={pool} name={name}") for name in ("vm", "vm-data")]
    answers = t.use(Process([binary(), "guest", f"{pool}/vm", f"{pool}/vm-data", "--socket", path, "--every", "1ms"],
                            t.folder, name="answers"))
    guest = t.guest([d.socket for d in disks], extra=port(path))
    guest.check("modprobe virtio_console; cat /dev/vdc > /tmp/g; chmod +x /tmp/g; mkfs.ext4 -q /dev/vda && mkdir -p /a && mount /dev/vda /a")

    guest.check("echo one > /a/file")
    t.equal(guest.check("/tmp/g --freeze /a snapshot first").split(), ["vm@first", "vm-data@first"])
    guest.check("echo two > /a/file", timeout=120)  # it was thawed
    t.equal(guest.check("/tmp/g snapshot second").split(), ["vm@second", "vm-data@second"])
    guest.check("/tmp/g sync")
    status, text = guest.run("/tmp/g snapshot second")
    t.equal(status, 1)
    assert "second" in text, text
    for bad in ("x/y", "--data", "@z", ""):
        status, text = guest.run(f"/tmp/g -- snapshot '{bad}'")
        assert status == 1 and "name" in text, (status, text)
    t.equal(guest.run("/tmp/g --freeze /nowhere snapshot third")[0], 1)
    guest.run("/tmp/g --freeze /a --freeze /a snapshot third")  # the second is frozen already: refused, and all thawed
    guest.check("echo three > /a/file", timeout=120)
    assert "third" not in snapshots(pool, "vm")

    # The host says nothing, and then cvd-guest dies: nothing stays frozen.
    os.kill(answers.pid, signal.SIGSTOP)
    t.equal(guest.run("/tmp/g --timeout 2 --freeze /a snapshot late")[0], 7)
    guest.check("echo four > /a/file", timeout=120)
    guest.check("(/tmp/g --timeout 1000 --freeze /a snapshot later & echo $! > /tmp/pid; wait) > /dev/null 2>&1 &")
    # It sleeps in a poll: it has frozen, asked, and waits for an answer.
    guest.check("until [ -s /tmp/pid ] && grep -q poll /proc/$(cat /tmp/pid)/wchan; do sleep 0.1; done; "
                "kill -9 $(cat /tmp/pid)")
    guest.check("echo five > /a/file", timeout=120)
    os.kill(answers.pid, signal.SIGCONT)
    wait_for("the late ones", lambda: {"late", "later"} <= set(snapshots(pool, "vm")))
    t.equal(guest.check("/tmp/g snapshot after").split(), ["vm@after", "vm-data@after"])  # not an earlier answer

    guest.check("head -c 3000 /dev/zero | tr '\\0' x > /dev/vport*p1; printf '\\n[1]\\n' > /dev/vport*p1")
    t.equal(guest.check("/tmp/g snapshot last").split(), ["vm@last", "vm-data@last"])
    guest.power_off()
    for disk in disks:
        disk.stop()
    fsck, empty, image = judge(pool, "vm@first", t.folder)
    t.equal((fsck, empty), (0, True))
    t.equal(subprocess.run(["debugfs", "-R", "cat file", image], capture_output=True, text=True, check=True).stdout, "one\n")
    process.stop()
    check(pool)


def test_refusals(t):
    """The command line, and a pool that nobody serves."""
    pool = t.folder / "pool"
    assert "--socket" in cvd("guest", f"{pool}/vm", status=2)
    assert "two pools" in cvd("guest", f"{pool}/vm", f"{t.folder}/other/vm", "--socket", t.folder / "s", status=2)
    cvd("guest", f"{pool}/vm@s", "--socket", t.folder / "s", status=2)
    for arguments, status in (([], 2), (["jump"], 2), (["snapshot", "a", "b"], 2), (["--timeout", "0", "sync"], 2),
                              (["--port", "/nonexistent", "sync"], 3), (["--help"], 0), (["--version"], 0)):
        done = subprocess.run([tool(), *arguments], capture_output=True, text=True, check=False)
        t.equal((arguments, done.returncode), (arguments, status))
