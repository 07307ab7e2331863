"""devtap and QEMU keep off each other's images, by QEMU's own locks."""

import re
import subprocess

from devtap_test import SoftDisk, StorageDaemon

MIB = 1 << 20


def test_image_locked_by_qemu(t):
    """An image that QEMU's code writes is refused: one clear line, and exit status 4."""
    image = t.sparse_file(16 * MIB)
    t.use(StorageDaemon(image, t.folder))
    done = subprocess.run([SoftDisk.binary(), "run", "--disk", "vm1", "--socket",
                           str(t.folder / "x.sock"), f"file path={image}"],
                          capture_output=True, text=True, timeout=120, check=False)
    t.equal(done.returncode, 4, "exit status")
    assert str(image) in done.stderr, done.stderr
    t.equal(len(done.stderr.strip().splitlines()), 1, "lines on stderr")


def test_image_locked_by_devtap(t):
    """While devtap serves an image, QEMU's tools refuse to write to it; afterwards they do."""
    image = t.sparse_file(16 * MIB)
    disk = t.soft_disk(f"file path={image}")
    write = ["qemu-io", "-f", "raw", "-c", "write 0 4k", str(image)]
    done = subprocess.run(write, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0 and "lock" in done.stdout + done.stderr, done.stdout + done.stderr
    disk.stop()
    subprocess.run(write, capture_output=True, timeout=120, check=True)


def test_socket_in_use(t):
    """A socket that is served is not taken over; one whose server has died is."""
    first = t.soft_disk(f"file path={t.sparse_file(16 * MIB)}")
    done = subprocess.run([SoftDisk.binary(), "run", "--disk", "vm2", "--socket", first.socket,
                           f"file path={t.sparse_file(16 * MIB, 'b.img')}"],
                          capture_output=True, text=True, timeout=120, check=False)
    t.equal(done.returncode, 4, "exit status")
    assert first.socket in done.stderr, done.stderr
    first.kill()
    first.restart()


def test_lock_later(t):
    """lock=off lets a second one in, as a migration needs it; `lock` shuts the door behind it."""
    image = t.sparse_file(16 * MIB)
    source = t.soft_disk(f"file path={image}", name="source")
    target = t.soft_disk(f"file path={image} lock=off", name="target")
    assert re.search(rf"{image}: devtap \(pid \d+\) serves it as vm1 too", target.output()), \
        target.output()

    def refused(*words):
        done = subprocess.run([SoftDisk.binary(), *words], capture_output=True, text=True,
                              env=target.environment, timeout=120, check=False)
        t.equal(done.returncode, 4, done.stderr)
        assert f"{image} is in use" in done.stderr, done.stderr

    refused("do", target.address, "file", "lock")
    source.stop()
    target.do("file", "lock")
    target.do("file", "lock")
    refused("run", "--disk", "vm1", "--socket", str(t.folder / "x.sock"), f"file path={image}")
