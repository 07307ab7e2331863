"""Compressed stores under real guests: killed workers, templates, full file systems."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess

from devtap_test import Disk
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, kernel_errors
from devtap_test.softdisk import SoftDisk, conforms, tool

MIB = 1 << 20
KILLS = int(os.environ.get("DEVTAP_COMPRESS_KILLS", "5"))


@limit(300)
def test_killed(t):
    """fio verifies on a compressed disk while workers die; what it holds afterwards is whole."""
    store = t.folder / "vm.dtz"
    disk = t.soft_disk(f"compress path={store} create=on size=64M level=1 cache=1M map-cache=16K")
    guest = t.guest([Disk(disk.socket)])
    load = VerifiedLoad(guest)
    load.survives_kills(disk, KILLS)
    load.finish()
    guest.check("blkdiscard -o 33554432 -l 33554432 /dev/vda; sync")
    t.equal(kernel_errors(guest), "")
    assert "in use" in tool("compress", "check", store, status=4)
    t.log(f"{KILLS} kills; {disk.stats()['compress']['counters']}")
    guest.close()
    disk.stop()
    tool("compress", "check", store)


def template_image(t, size):
    """An image that compresses to less than half, and its hash."""
    path = t.folder / "image.raw"
    text = " ".join(str(n * n) for n in range(200000)).encode()
    content = (text + random.Random(3).randbytes(len(text) // 8))[:2 * MIB] * (size // MIB // 4)
    path.write_bytes(content.ljust(size, b"\0"))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@limit(120)
def test_template(t):
    """An image goes in through NBD; two guests run from it at once, with what they write aside."""
    plugin = pathlib.Path(SoftDisk.binary()).parent / "nbdkit/nbdkit-devtap-plugin.so"
    if not plugin.exists() or not shutil.which("nbdkit"):
        t.skip("the plug-in is not built: nbdkit's header was not there")
    image, before = template_image(t, 64 * MIB)
    store = t.folder / "template.dtz"
    disk = t.soft_disk(f"compress path={store} create=on size=64M")
    subprocess.run(["nbdkit", "-U", "-", str(plugin), f"socket={disk.socket}", "--run",
                    f"qemu-img convert -n -W -m 8 -f raw {image} -O raw \"$uri\""],
                   check=True, timeout=120)
    disk.stop()
    tool("compress", "check", store)
    info = json.loads(tool("compress", "info", "--json", store))
    t.log(f"{info}")
    assert info["logical"] == 32 * MIB, "zeroes take space"
    assert info["ratio"] > 2, info
    disks = [t.soft_disk(f"cow overlay={t.folder}/{name}.cow create=on | "
                         f"compress path={store} read-only=on", disk=name) for name in ("a", "b")]
    guest = t.guest([Disk(disk.socket) for disk in disks])
    for device in ("vda", "vdb"):
        t.equal(guest.check(f"sha256sum </dev/{device}").split()[0], before, device)
    guest.check("dd if=/dev/urandom of=/dev/vda bs=1M count=4 oflag=direct conv=fsync")
    t.equal(kernel_errors(guest), "")
    guest.close()
    for one in disks:
        one.stop()
    tool("compress", "check", store)


@limit(180)
def test_conformance(t):
    """What devtap promises of every layer."""
    conforms(f"compress path={t.folder}/{{}}.dtz create=on size=64M")
