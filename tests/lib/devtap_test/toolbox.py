"""Programs of this host for a guest that has only busybox, with the libraries they need."""

import os
import re
import shutil
import subprocess

from . import paths


def initramfs_with(folder, programs, modules=()):
    """The small initramfs with `programs` (names or paths) in /usr/bin, and modules of the guest's kernel in /root for
    insmod; returns its path, for QEMU's -initrd."""
    root = folder / "toolbox"
    for module in modules:
        [path] = paths.image("kernel").rglob(f"{module}.ko")
        copy(path, root / "root" / path.name)
    for program in programs:
        path = shutil.which(program)
        copy(path, root / "usr/bin" / os.path.basename(program))
        needs = subprocess.run(["ldd", path], check=True, text=True, stdout=subprocess.PIPE).stdout
        for library in re.findall(r"(/\S+) \(0x", needs):
            loader = os.path.basename(library).startswith("ld-linux")
            copy(library, root / ("lib64" if loader else "usr/lib") / os.path.basename(library))
    archive = folder / "toolbox.initrd"
    listing = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
    with open(archive, "wb") as out:
        out.write(paths.image("initramfs").read_bytes())
        out.flush()
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=listing.encode(), stdout=out, cwd=root,
                       check=True)
    return archive


def copy(source, target):
    """With its mode, into a folder that is made for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(os.path.realpath(source), target)
