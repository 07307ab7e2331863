"""The nbdkit plug-in: soft disks as NBD exports, and from there as files and loop devices of the host."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess

from devtap_test import wait_for
from devtap_test.process import Process, free_socket_path
from devtap_test.softdisk import SoftDisk

MIB = 1 << 20


def plugin(t):
    """The plug-in that was built with the binary under test."""
    path = pathlib.Path(SoftDisk.binary()).parent / "nbdkit/nbdkit-devtap-plugin.so"
    if not path.exists() or not shutil.which("nbdkit"):
        t.skip("the plug-in is not built: nbdkit's header was not there")
    return path


class Export(Process):
    """nbdkit on a soft disk's socket."""

    def __init__(self, t, socket, *options, filters=()):
        self.socket = free_socket_path(t.folder, "nbd.sock")
        self.uri = f"nbd+unix:///?socket={self.socket}"
        command = ["nbdkit", "-f", "-U", self.socket, *options]
        command += [f"--filter={name}" for name in filters]
        super().__init__([*command, plugin(t), socket], t.folder, name="nbdkit")
        wait_for("nbdkit", lambda: os.path.exists(self.socket))


def run(*command, **options):
    """Output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60,
                          check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def info(uri):
    """What a client is told of the export."""
    return json.loads(run("nbdinfo", "--json", uri))["exports"][0]


def test_export(t):
    """What the disk can do is what a client sees, and every operation arrives."""
    image = t.sparse_file(64 * MIB)
    disk = t.soft_disk(f"trace out={t.folder}/t.trace | file path={image}")
    export = t.use(Export(t, disk.socket))
    seen = info(export.uri)
    t.equal([seen[name] for name in ("export-size", "can_flush", "can_fua", "can_trim", "can_zero",
                                     "can_multi_conn", "is_read_only", "block_size_minimum")],
            [64 * MIB, True, True, True, True, True, False, 512])
    data = t.folder / "data"
    data.write_bytes(os.urandom(16 * MIB))
    os.truncate(data, 64 * MIB)
    run("nbdcopy", "--flush", data, export.uri)
    run("nbdcopy", export.uri, t.folder / "back")
    run("cmp", data, t.folder / "back")
    run("cmp", data, image)
    assert disk.operations("trace", "write-zeroes") > 0, "nbdcopy's zeroes did not arrive as such"
    assert os.stat(image).st_blocks * 512 < 20 * MIB, "the image is not sparse"
    before = disk.operations("trace", "flush")
    run("qemu-io", "-f", "raw", "-c", "write -f 0 4k", "-c", "discard 1M 1M", export.uri)
    assert disk.operations("trace", "flush") > before, "no flush after a write with FUA"
    assert disk.operations("trace", "discard") > 0, "no discard arrived"


def test_load(t):
    """Parallel verified load, on two connections at once, while the back end is killed."""
    disk = t.soft_disk(f"delay time=1ms | file path={t.sparse_file(64 * MIB)}", options=["--single"])
    export = t.use(Export(t, disk.socket))
    jobs = [subprocess.Popen(["fio", "--name=v", "--verify_state_save=0", "--ioengine=nbd", f"--uri={export.uri}",
                              "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=16m",
                              f"--offset={n * 16}m", "--verify=crc32c", "--verify_fatal=1"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for n in range(2)]
    try:
        wait_for("some writes", lambda: disk.operations("delay", "write") > 500)
        disk.kill()
        disk.restart()
        for job in jobs:
            output, _ = job.communicate(timeout=90)
            t.equal(job.returncode, 0, output)
    finally:
        for job in jobs:
            job.kill()
            job.wait()


def test_filters_and_tls(t):
    """nbdkit's own: TLS with a shared key, and a filter for clients that read half blocks."""
    image = t.sparse_file(16 * MIB)
    disk = t.soft_disk(f"file path={image} block-size=4096")
    keys = t.folder / "keys.psk"
    keys.write_text("guest:" + "5a" * 32 + "\n")
    export = t.use(Export(t, disk.socket, "--tls=require", f"--tls-psk={keys}",
                          filters=["blocksize"]))
    uri = f"nbds+unix://guest@/?socket={export.socket}&tls-psk-file={keys}"
    assert info(uri)["export-size"] == 16 * MIB
    data = t.folder / "data"
    data.write_bytes(os.urandom(16 * MIB))
    run("nbdcopy", data, uri)
    run("cmp", data, image)
    refused = subprocess.run(["nbdinfo", export.uri], capture_output=True, check=False)
    assert refused.returncode != 0, "a client without TLS was let in"


def test_refusals(t):
    """No back end: one line, and nbdkit ends."""
    done = subprocess.run(["nbdkit", "-f", "-U", t.folder / "n", plugin(t), t.folder / "none"],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0 and "none" in done.stderr, done.stderr
    done = subprocess.run(["nbdkit", "-f", "-U", t.folder / "n", plugin(t)], capture_output=True,
                          text=True, timeout=30, check=False)
    assert done.returncode != 0 and "socket=PATH" in done.stderr, done.stderr


@contextlib.contextmanager
def loop_device(t, uri):
    """The export as a block device of this host, as doc/host-access.md has it."""
    folder = t.folder / "fuse"
    folder.mkdir()
    with Process(["nbdfuse", folder, uri], t.folder, name="nbdfuse"):
        try:
            wait_for("nbdfuse", lambda: (folder / "nbd").exists())
            device = run("losetup", "--find", "--show", "--partscan", folder / "nbd").strip()
            try:
                yield device
            finally:
                run("losetup", "--detach", device)
        finally:
            run("umount", folder)


def test_loop_device(t):
    """A file system made and used on the host is what a guest finds on its disk."""
    for need in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(need):
            t.skip(f"no {need} here")
    if os.geteuid() != 0 or not shutil.which("nbdfuse"):
        t.skip("needs root and nbdfuse")
    image, mount = t.sparse_file(64 * MIB), t.folder / "mnt"
    mount.mkdir()
    with t.soft_disk(f"throttle iops=100k | file path={image}") as disk:
        with Export(t, disk.socket) as export, loop_device(t, export.uri) as device:
            run("mkfs.ext4", "-q", device)
            run("mount", device, mount)
            try:
                (mount / "hello").write_text("from the host\n")
            finally:
                run("umount", mount)
    with t.soft_disk(f"file path={image}") as disk, t.guest([disk.socket]) as guest:
        t.equal(guest.check("e2fsck -fn /dev/vda >/dev/null 2>&1; mount /dev/vda /mnt && "
                            "cat /mnt/hello").strip(), "from the host")
