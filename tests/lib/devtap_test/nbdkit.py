"""A soft disk as an NBD export of nbdkit, and from there as a block device of this host (doc/host-access.md)."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

from .process import PATIENCE, Process, free_socket_path, wait_for
from .softdisk import SoftDisk


def plugin(t):
    """The plug-in that was built with the binary under test."""
    path = pathlib.Path(SoftDisk.binary()).parent / "nbdkit/nbdkit-devtap-plugin.so"
    if not path.exists() or not shutil.which("nbdkit"):
        t.skip("the plug-in is not built: nbdkit's header was not there")
    return path


class Export(Process):
    """nbdkit on a soft disk's socket, or with the plug-in's own parameters."""

    def __init__(self, t, socket, *options, filters=(), parameters=()):
        self.socket = free_socket_path(t.folder, "nbd.sock")
        self.uri = f"nbd+unix:///?socket={self.socket}"
        command = ["nbdkit", "-f", "-U", self.socket, *options]
        command += [f"--filter={name}" for name in filters]
        super().__init__([*command, plugin(t), *(parameters or [socket])], t.folder, name="nbdkit",
                         env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder)))
        wait_for("nbdkit", lambda: os.path.exists(self.socket))


def run(*command, **options):
    """Output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=2 * PATIENCE,
                          check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def put(t, disk, path):
    """Writes a file's content to the beginning of a soft disk, without a guest."""
    with Export(t, disk.socket) as export:
        run("nbdcopy", "--flush", path, export.uri)


def get(t, disk):
    """All that a soft disk holds, without a guest."""
    with Export(t, disk.socket) as export:
        run("nbdcopy", export.uri, t.folder / "copy")
    return (t.folder / "copy").read_bytes()


def need_loop_device(t):
    """Skips the test where loop_device() cannot be had."""
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(path):
            t.skip(f"no {path} here")
    if os.geteuid() != 0 or not shutil.which("nbdfuse"):
        t.skip("needs root and nbdfuse")


@contextlib.contextmanager
def loop_device(t, uri):
    """The export as a block device of this host, as doc/host-access.md has it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuse", dir=t.folder))
    with Process(["nbdfuse", folder, uri], t.folder, name="nbdfuse"):
        try:
            wait_for("nbdfuse", lambda: (folder / "nbd").exists())
            device = run("losetup", "--find", "--show", "--partscan", folder / "nbd").strip()
            try:
                yield device
            finally:
                run("losetup", "--detach", device)
        finally:
            wait_for("the loop device to let go", lambda: subprocess.run(["umount", folder], check=False).returncode == 0)


@contextlib.contextmanager
def mounted(device, folder):
    """Its file system, at a new folder."""
    folder.mkdir()
    run("mount", device, folder)
    try:
        yield folder
    except BaseException:
        subprocess.run(["umount", "--lazy", folder], check=False)  # who uses it still ends with the test
        raise
    run("umount", folder)
