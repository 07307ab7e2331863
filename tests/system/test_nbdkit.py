"""The nbdkit plug-in: soft disks as NBD exports, and from there as files and loop devices of the host."""

import json
import os
import subprocess

from devtap_test import wait_for
from devtap_test.nbdkit import Export, loop_device, mounted, need_loop_device, plugin, run
from devtap_test.pool import PoolProcess, cvd
from devtap_test.process import Process, free_socket_path

MIB = 1 << 20


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
            output, _ = job.communicate(timeout=600)
            t.equal(job.returncode, 0, output)
    finally:
        for job in jobs:
            job.kill()
            job.wait()


def extents(uri):
    """What a client is told: [(start, length, holds data?)], neighbours joined."""
    joined = []
    for extent in json.loads(run("nbdinfo", "--map", "--json", uri)):
        data = extent["type"] == 0
        if joined and joined[-1][2] == data:
            joined[-1][1] += extent["length"]
        else:
            joined.append([extent["offset"], extent["length"], data])
    return joined


def need_holes(t, path):
    """Some file systems do not tell where a file's holes are."""
    with open(path, "rb") as file:
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) != 0:
            t.skip("this file system knows of no holes")


def same_and_sparse(t, copy, original, most):
    """A copy that is equal, and takes at most so many bytes."""
    run("cmp", copy, original)
    assert os.stat(copy).st_blocks * 512 <= most, "the copy is not sparse"
    os.unlink(copy)


def test_map(t):
    """Sparse files and overlays stay sparse through a soft disk, the plug-in and qemu-img, while their VM's process
    is replaced, too; without device= all is data."""
    base = t.sparse_file(256 * MIB, "base.img")
    with open(base, "r+b") as file:
        for at in (0, 100 * MIB):
            file.seek(at + MIB)
            file.write(os.urandom(2 * MIB))
    need_holes(t, base)
    disk = t.soft_disk(f"trace out={t.folder}/t | cow overlay={t.folder}/o create=on | "
                       f"file path={base} read-only=on")
    export = t.use(Export(t, None, parameters=["device=vm1"]))
    t.equal(extents(export.uri), [[0, MIB, False], [MIB, 2 * MIB, True], [3 * MIB, 98 * MIB, False],
                                  [101 * MIB, 2 * MIB, True], [103 * MIB, 153 * MIB, False]])
    run("qemu-io", "-f", "raw", "-c", "write -P 7 200M 1M", "-c", "write -z -u 1M 1M",
        "-c", "write -P 7 101M 4k", export.uri)
    with open(base, "rb") as file, open(t.folder / "expected", "wb") as expected:
        expected.truncate(256 * MIB)
        for at in (2 * MIB, 101 * MIB, 102 * MIB):
            file.seek(at)
            expected.seek(at)
            expected.write(file.read(MIB))
        for at, length in ((200 * MIB, MIB), (101 * MIB, 4096)):
            expected.seek(at)
            expected.write(b"\x07" * length)
    totals = json.loads(disk.devtap("map", "--totals", "--json", "vm1"))
    t.equal([totals["data"], totals["hole"] + totals["zero"]], [4 * MIB, 252 * MIB])
    for end in (lambda: None, lambda: os.kill(disk.show()["worker"], 9)):
        end()
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", export.uri, t.folder / "copy")
        same_and_sparse(t, t.folder / "copy", t.folder / "expected", 5 * MIB)
        run("nbdcopy", export.uri, t.folder / "copy")
        same_and_sparse(t, t.folder / "copy", t.folder / "expected", 5 * MIB)
    export.stop()
    with Export(t, disk.socket) as blind:
        t.equal(extents(blind.uri), [[0, 256 * MIB, True]])


def test_map_of_a_server(t):
    """The back nbd asks its server; while that is gone all is data."""
    image = t.sparse_file(16 * MIB)
    with open(image, "r+b") as file:
        file.write(os.urandom(MIB))
    need_holes(t, t.sparse_file(MIB, "probe"))
    socket = free_socket_path(t.folder, "server.sock")
    server = t.use(Process(["nbdkit", "-f", "-U", socket, "file", image], t.folder, name="server",
                           ready_socket=socket))
    disk = t.soft_disk(f"readonly | nbd uri=nbd+unix:///?socket={socket}")

    def told():
        map_ = json.loads(disk.devtap("map", "--json", "vm1"))
        return [(e["start"], e["length"], e["status"] == "data") for e in map_["extents"]]
    t.equal(told(), [(0, MIB, True), (MIB, 15 * MIB, False)])
    server.kill()
    wait_for("the loss of the server", lambda: told() == [(0, 16 * MIB, True)])


def test_map_of_a_pool(t):
    """Disks of pools are sparse, whoever opens the pool: its own process, which is asked, or the disk's."""
    pool = t.folder / "pool"
    cvd("pool", "create", pool, "--size", "1G")
    cvd("create", f"{pool}/vm1", "--size", "256M")
    expected = [[0, MIB, False], [MIB, 2 * MIB, True], [3 * MIB, 97 * MIB, False],
                [100 * MIB, 4096, True], [100 * MIB + 4096, 156 * MIB - 4096, False]]
    process = PoolProcess(pool, t.folder)
    with t.soft_disk(f"throttle iops=1M | cvd pool={pool} name=vm1") as disk:
        with Export(t, None, parameters=["device=vm1"]) as export:
            run("qemu-io", "-f", "raw", "-c", "write -P 7 0 4M", "-c", "write -P 7 100M 512",
                "-c", "discard 3M 1M", "-c", "write -z -u 0 1M", export.uri)
            t.equal(extents(export.uri), expected)
            run("nbdcopy", "--no-extents", export.uri, t.folder / "expected")
            run("qemu-img", "convert", "-f", "raw", "-O", "raw", export.uri, t.folder / "copy")
            same_and_sparse(t, t.folder / "copy", t.folder / "expected", 3 * MIB)
            process.stop()
            wait_for("the loss of the pool", lambda: extents(export.uri) == [[0, 256 * MIB, True]])
    disk = t.soft_disk(f"cvd-local pool={pool} name=vm1")
    export = t.use(Export(t, None, parameters=["device=vm1"]))
    t.equal(extents(export.uri), expected)


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
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0 and "none" in done.stderr, done.stderr
    done = subprocess.run(["nbdkit", "-f", "-U", t.folder / "n", plugin(t)], capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode != 0 and "socket=PATH" in done.stderr, done.stderr
    disk = t.soft_disk("null size=1M")
    for words, said in (([f"device={disk.disk}", t.folder / "other"], "and not on"),
                        (["device=vm2"], "did you mean 'vm1'?")):
        done = subprocess.run(["nbdkit", "-f", "-U", t.folder / "n", plugin(t), *words],
                              capture_output=True, text=True, timeout=120, check=False,
                              env=disk.environment)
        assert done.returncode != 0 and said in done.stderr, done.stderr


def test_loop_device(t):
    """A file system made and used on the host is what a guest finds on its disk."""
    need_loop_device(t)
    image = t.sparse_file(64 * MIB)
    with t.soft_disk(f"throttle iops=100k | file path={image}") as disk:
        with Export(t, disk.socket) as export, loop_device(t, export.uri) as device:
            run("mkfs.ext4", "-q", device)
            with mounted(device, t.folder / "mnt") as folder:
                (folder / "hello").write_text("from the host\n")
    with t.soft_disk(f"file path={image}") as disk, t.guest([disk.socket]) as guest:
        t.equal(guest.check("e2fsck -fn /dev/vda >/dev/null 2>&1; mount /dev/vda /mnt && "
                            "cat /mnt/hello").strip(), "from the host")
