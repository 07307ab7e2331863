"""Where things are: the source tree, the images, the tools under test."""

import functools
import os
import pathlib
import subprocess

SOURCE = pathlib.Path(__file__).resolve().parents[3]


def devtap():
    """The devtap binary under test: $DEVTAP, else the one in build/."""
    if os.environ.get("DEVTAP"):
        return os.path.abspath(os.environ["DEVTAP"])
    for name in ("build/tools/devtap", "build/devtap"):
        if os.access(SOURCE / name, os.X_OK):
            return str(SOURCE / name)
    return None


@functools.cache
def image(name):
    """The path of a guest image (see scripts/guest-image), which is built if missing."""
    done = subprocess.run([SOURCE / "scripts/guest-image", name], stdout=subprocess.PIPE,
                          text=True, check=True)
    return pathlib.Path(done.stdout.strip())


@functools.cache
def accelerator():
    """"kvm" where KVM really runs a guest, else "tcg"."""
    works = subprocess.run([SOURCE / "scripts/kvm-works"], check=False)
    return "kvm" if works.returncode == 0 else "tcg"
