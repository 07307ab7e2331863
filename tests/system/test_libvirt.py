"""The example for libvirt, under the real libvirt: its driver in a program, without the daemon."""

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

from devtap_test import paths, wait_for
from devtap_test.case import limit
from devtap_test.process import Process

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def domain(folder, socket):
    """examples/libvirt.xml with this test's socket, less memory, and a console that a file keeps."""
    tree = ElementTree.parse(paths.SOURCE / "examples/libvirt.xml")
    root, devices = tree.getroot(), tree.find("devices")
    root.set("type", "kvm" if paths.accelerator() == "kvm" else "qemu")
    memory = root.find("memory")
    memory.text, memory.attrib["unit"] = "512", "MiB"
    devices.find("disk/source").set("path", str(socket))
    devices.remove(devices.find("console"))
    ElementTree.SubElement(ElementTree.SubElement(devices, "serial", type="file"), "source",
                           path=str(folder / "console"))
    tree.write(folder / "vm1.xml")
    return folder / "vm1.xml"


@limit(180)
def test_example(t):
    """Debian boots from a soft disk by the example's domain, which finds a restarted `devtap run` again."""
    if not shutil.which("virt-qemu-run"):
        t.skip("no virt-qemu-run (scripts/deps test)")
    for folder in (t.folder.parent, t.folder):
        folder.chmod(0o755)
    own = t.folder / "libvirt"
    own.mkdir()
    own.chmod(0o777)  # libvirt runs as nobody
    disk = t.soft_disk(f"file path={t.debian_disk()}", options=["--socket-mode", "0666"])
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(own), "XDG_RUNTIME_DIR": str(own)}
    t.use(Process([*NOBODY, "virt-qemu-run", "--root", own / "root", domain(own, disk.socket)], t.folder,
                  name="libvirt", env=env))

    def says(text):
        return (own / "console").exists() and text in (own / "console").read_text(errors="replace")
    wait_for("the guest's login", lambda: says("root@devtap-guest"), 120)
    t.equal(disk.show()["front"]["attached"], True)
    disk.kill()
    disk.restart()
    wait_for("the VM at the new process", lambda: disk.show()["front"]["attached"], 30)
    running = subprocess.run(["pgrep", "-f", f"guest=vm1.*{own}"], check=False, stdout=subprocess.DEVNULL)
    t.equal(running.returncode, 0, "the VM's end")
