"""Under the real libvirt: the example's domain, and the tap put before the back end of a running one."""

import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

from devtap_test import paths, wait_for
from devtap_test.case import limit
from devtap_test.load import kernel_errors
from devtap_test.process import PATIENCE, Process
from devtap_test.shell import SerialPort, Shell
from devtap_test.softdisk import SoftDisk

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

# Writes a file of its disk and reads it back from there, until told to stop.
LOAD = """
head -c 1024000 /dev/urandom >/run/wanted
pass=0
while [ ! -e /run/stop ]; do
    dd if=/run/wanted of=/root/found bs=100k oflag=direct conv=notrunc
    dd if=/root/found bs=100k iflag=direct | cmp - /run/wanted || { echo $pass >/run/bad; break; }
    pass=$((pass + 1)); echo $pass >/run/passes
done
"""


class Libvirt:
    """libvirt's daemon with all that it keeps in a folder, as nobody; its domain ends with the `with` block."""

    def __init__(self, t):
        self.folder = t.folder / "libvirt"
        self.folder.mkdir()
        for folder in (t.folder.parent, t.folder):
            folder.chmod(0o755)
        self.folder.chmod(0o777)
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder),
                    "XDG_RUNTIME_DIR": str(self.folder), "LIBVIRT_DEFAULT_URI": "qemu:///session"}
        self.daemon = t.use(Process([*NOBODY, "libvirtd"], t.folder, name="libvirt", env=self.env,
                                    ready_socket=str(self.folder / "libvirt/libvirt-sock")))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run("virsh", "destroy", "vm1", check=False)

    def run(self, *command, check=True):
        """A command of libvirt's; returns what it prints."""
        done = subprocess.run([*NOBODY, *map(str, command)], env=self.env, text=True, timeout=120,
                              capture_output=True, check=False)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout

    def start(self, socket):
        """examples/libvirt.xml with this socket, less memory, and a console at ours; returns the console."""
        tree = ElementTree.parse(paths.SOURCE / "examples/libvirt.xml")
        root, devices = tree.getroot(), tree.find("devices")
        root.set("type", "kvm" if paths.accelerator() == "kvm" else "qemu")
        memory = root.find("memory")
        memory.text, memory.attrib["unit"] = "512", "MiB"
        devices.find("disk/source").set("path", str(socket))
        devices.remove(devices.find("console"))
        ElementTree.SubElement(ElementTree.SubElement(devices, "serial", type="unix"), "source",
                               path=str(self.folder / "console"), mode="bind")
        tree.write(self.folder / "vm1.xml")
        self.run("virsh", "create", self.folder / "vm1.xml")
        return SerialPort(str(self.folder / "console"))

    def qmp(self, t):
        """libvirt's own way to QEMU for others: a QMP socket that it passes on."""
        socket = self.folder / "vm1.qmp"
        t.use(Process([*NOBODY, "/usr/bin/python3", shutil.which("virt-qemu-qmp-proxy"), "vm1", socket],
                      t.folder, name="proxy", env=self.env, ready_socket=str(socket)))
        return str(socket)


def log_in(console):
    """The guest's shell, once it has logged root in."""
    console.expect(r"root@[^\n]*# ?$", 4 * PATIENCE)
    shell = Shell(console)
    shell.sync()
    shell.check("dmesg -n 1; PS1=; bind 'set enable-bracketed-paste off' || true")
    return shell


def goes_on(guest):
    """The load has made whole passes since now, and found nothing wrong."""
    def passes():
        assert guest.run("test -e /run/bad")[0] == 1, "other data than were written"
        return int(guest.run("cat /run/passes 2>/dev/null")[1] or 0)
    before = passes()
    wait_for("the guest's I/O to go on", lambda: passes() > before + 1, interval=0.2)


def attach_and_detach(t, libvirt, guest):
    """Whoever owns QEMU's monitor: the tap comes, gets a layer, and goes, under a load."""
    env = dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder))
    qmp, chardev = libvirt.qmp(t), "chr-vu-virtio-disk0"
    guest.check(f"cat >/run/load.sh <<'SH'\n{LOAD}\nSH\n(sh /run/load.sh >/dev/null 2>&1 &)")
    goes_on(guest)
    tap = t.use(Process([SoftDisk.binary(), "attach", "--timeout", "100s", "--disk", "tap", qmp, chardev], t.folder, name="attach",
                        ready_line="stands before", env=env))

    def devtap(*words):
        done = subprocess.run([SoftDisk.binary(), *words], env=env, text=True, timeout=120,
                              capture_output=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout
    goes_on(guest)
    devtap("insert", "tap", "top", "throttle", "iops=100000")
    goes_on(guest)
    shown = json.loads(devtap("show", "--json", "tap"))
    t.equal([layer["name"] for layer in shown["chain"]], ["throttle", "vhost-user"])
    assert shown["front"]["attached"], shown
    t.log(libvirt.run("virsh", "dominfo", "vm1"))
    t.log(devtap("detach", "--timeout", "100s", qmp, chardev, "tap"))
    t.equal(tap.child.wait(120), 0, "exit status of attach")
    goes_on(guest)
    guest.check("touch /run/stop")
    t.equal(libvirt.run("virsh", "domstate", "vm1").strip(), "running")


@limit(240)
def test_example(t):
    """Debian boots from a soft disk by the example's domain, which finds a restarted `devtap run` again; then a tap
    is put before that, by way of libvirt."""
    for program in ("libvirtd", "virsh", "virt-qemu-qmp-proxy"):
        if not shutil.which(program):
            t.skip(f"no {program} (scripts/deps test)")
    libvirt = Libvirt(t)
    disk = t.soft_disk(f"file path={t.debian_disk()}", options=["--socket-owner", "nobody"])
    with libvirt:
        guest = log_in(libvirt.start(disk.socket))
        t.equal(disk.show()["front"]["attached"], True)
        disk.kill()
        disk.restart()
        wait_for("the VM at the new process", disk.attached)
        attach_and_detach(t, libvirt, guest)
        t.equal(kernel_errors(guest), "")
