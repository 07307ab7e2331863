"""One process serves a pool: many VMs, commands meanwhile, and its death that nobody notices.

DEVTAP_POOL_KILLS says how often it is killed under load; the full number is 100.
"""

import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import time

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.load import Load, VerifiedLoad, kernel_errors
from devtap_test.pool import PoolProcess, binary, check, cvd
from devtap_test.process import is_listening

MIB = 1 << 20
KILLS = int(os.environ.get("DEVTAP_POOL_KILLS", "15"))
DISKS = 8


def make_pool(t, *options, size="4G", image_mib=8):
    """A pool with a labelled template that holds random bytes."""
    pool, image = t.folder / "pool", t.folder / "image"
    image.write_bytes(random.Random(7).randbytes(image_mib * MIB))
    cvd("pool", "create", pool, "--size", size, *options)
    cvd("create", f"{pool}/base", "--size", "64M")
    cvd("fill", f"{pool}/base", image)
    cvd("snap", f"{pool}/base", "--name", "v1")
    cvd("label", f"{pool}/base@v1")
    return pool, image


def load_of(t, disk, seconds=3600, name=None):
    """Of a disk, or of another one of the same process."""
    return Load(t, disk, seconds, "--sleep", "--depth", "8", name=name)


def chain(pool, name, more=""):
    return f"cvd pool={pool} name={name} {more}"


@limit(120)
def test_commands_meanwhile(t):
    """Disks of two devtap runs are in use; snapshots, clones, sizes, copies and deletions go on."""
    pool, image = make_pool(t)
    process = t.use(PoolProcess(pool, t.folder))
    cvd("dup", f"{pool}/base@v1", "vm", "--count", 2)
    one = t.soft_disk(chain(pool, "vm1"), disk="one")
    two = t.soft_disk(chain(pool, "vm2"), disk="two")
    loads = [load_of(t, disk) for disk in (one, two)]
    cvd("snap", f"{pool}/vm1", f"{pool}/vm2", "--name", "cut")
    one.do("cvd", "snapshot", "own")
    names = [s["name"] for s in json.loads(cvd("snaps", f"{pool}/vm1", "--json"))]
    t.equal(names, ["own", "cut"])
    cvd("label", f"{pool}/vm1@cut")
    cvd("dup", f"{pool}/vm1@cut", "clone")
    cvd("fill", f"{pool}/clone", image)
    cvd("export", f"{pool}/clone", t.folder / "copy")
    t.equal((t.folder / "copy").read_bytes()[:8 * MIB], image.read_bytes())
    cvd("resize", f"{pool}/vm2", "96M")
    wait_for("the new size", lambda: two.show()["disk"]["bytes"] == 96 * MIB)
    cvd("delete", f"{pool}/vm2@cut")
    cvd("delete", f"{pool}/clone")
    for load in loads:
        load.stop(t)
    assert "one" in cvd("delete", f"{pool}/vm1", status=4), "it does not say who has it"
    cvd("rename", f"{pool}/vm1", "other", status=4)
    cvd("pool", "grow", pool, "--size", "5G")
    cvd("sync", pool)
    t.equal(check(pool)["served"], True)
    one.stop()
    two.stop()
    process.stop()
    assert not os.path.exists(f"{pool}.sock"), "the socket is left"
    check(pool)


@limit(60)
def test_one_writer(t):
    """A second writer is told who has the disk; readers of it and of its snapshots are let in."""
    pool, image = make_pool(t)
    t.use(PoolProcess(pool, t.folder))
    first = t.soft_disk(chain(pool, "base"), disk="first")
    t.no_soft_disk("in use by first", chain(pool, "base"), disk="second")
    t.no_soft_disk("is a snapshot", chain(pool, "base@v1"), disk="third")
    load = load_of(t, first)
    readers = [t.soft_disk(chain(pool, "base@v1", "read-only=on"), disk=f"reader{n}")
               for n in range(3)]
    readers.append(t.soft_disk(chain(pool, "base", "read-only=on"), disk="beside"))
    for reader in readers[:3]:
        t.equal(reader.bench("--rw", "read", "--time", "300ms")["errors"], 0)
    cvd("export", f"{pool}/base@v1", t.folder / "copy")
    t.equal((t.folder / "copy").read_bytes()[:8 * MIB], image.read_bytes())
    load.stop(t)


@limit(30)
def test_no_process(t):
    """Each way in which nobody serves the pool, or somebody else has it, has its own line."""
    pool, _ = make_pool(t)
    for _ in range(2):
        t.no_soft_disk("nobody serves the pool", chain(pool, "base"), disk="none")
        process = PoolProcess(pool, t.folder)
        again = subprocess.run([*process.argv], capture_output=True, text=True, timeout=120,
                               check=False)
        assert again.returncode != 0 and "in use" in again.stderr, again
        os.rename(f"{pool}.sock", f"{pool}.away")
        text = cvd("create", f"{pool}/more", "--size", "1M", status=4)
        assert f"in use by cvd pool open (pid {process.pid})" in text, text
        os.rename(f"{pool}.away", f"{pool}.sock")
        process.kill()  # leaves the socket behind
    wait_for("the dead process to let go", lambda: not is_listening(f"{pool}.sock"))
    assert "nobody serves" in cvd("pool", "close", pool, status=3)
    cvd("create", f"{pool}/more", "--size", "1M")
    check(pool)


@limit(30)
def test_activated(t):
    """A socket of the service manager's, and a background process that says when it serves."""
    pool, _ = make_pool(t)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{pool}.sock")
        sock.listen()
        fd = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 20)
        child = subprocess.Popen(
            ["sh", "-c", 'LISTEN_PID=$$ exec "$0" pool open "$1"', binary(), pool],
            preexec_fn=lambda: os.dup2(fd, 3), close_fds=False,
            env=dict(os.environ, LISTEN_FDS="1", LISTEN_FDNAMES="pool"))
        os.close(fd)
        try:
            cvd("create", f"{pool}/more", "--size", "1M")  # waits in the backlog
            t.equal(check(pool)["served"], True)
        finally:
            child.terminate()
            t.equal(child.wait(120), 0)
    assert os.path.exists(f"{pool}.sock"), "a socket of others was removed"
    cvd("pool", "open", pool, "--background")
    assert "in use" in cvd("pool", "open", pool, "--background", status=4)
    cvd("delete", f"{pool}/more")
    cvd("pool", "close", pool)
    check(pool)


@limit(60)
def test_full(t):
    """Each disk's own events tell that the pool is full, and that it goes on; whoever asks is told all."""
    pool, _ = make_pool(t, size="64M", image_mib=16)
    cvd("dup", f"{pool}/base@v1", "vm", "--count", 2)
    cvd("create", f"{pool}/ballast", "--size", "16M")
    cvd("fill", f"{pool}/ballast", t.folder / "image")
    t.use(PoolProcess(pool, t.folder))
    one = t.soft_disk(chain(pool, "vm1"), disk="one")
    two = t.soft_disk(chain(pool, "vm2"), disk="two")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{pool}.sock")
        sock.sendall(b'{"verb": "events"}\n')
        lines = map(json.loads, sock.makefile())
        t.equal(next(lines), {"ok": True})
        load = Load(t, one, 3600, "--rw", "write", "--size", "64K", "--sleep")
        told = next(lines)
        t.equal(told["event"], "full")
        for disk in (one, two):
            t.equal(wait_for("the event", lambda d=disk: d.events("full"))[0]["text"], told["text"])
        cvd("delete", f"{pool}/ballast")
        t.equal(next(lines)["event"], "resumed")
    for disk in (one, two):
        wait_for("the end", lambda d=disk: d.events("resumed"))
    cvd("pool", "grow", pool, "--size", "1G")
    load.stop(t)


@limit(60)
def test_worker_of_client_killed(t):
    """devtap's own worker dies: its successor gets the disk when the session before is over."""
    pool, _ = make_pool(t)
    t.use(PoolProcess(pool, t.folder))
    disk = t.soft_disk(chain(pool, "base"))
    load = load_of(t, disk)
    for turn in range(6):
        time.sleep(0.5)
        if turn == 3:
            disk.devtap("upgrade", "vm1")
        disk.kill_worker()
        disk.worker()
    load.stop(t, after=1)


@limit(180)
def test_passthrough(t):
    """The pool's process serves the guest's own rings, is killed, and serves them again."""
    pool, _ = make_pool(t)
    process = t.use(PoolProcess(pool, t.folder))
    disk = t.soft_disk(chain(pool, "base"))
    guest = t.guest([disk.socket])
    load = VerifiedLoad(guest)
    load.goes_on()
    disk.devtap("mode", disk.address, "passthrough")
    wait_for("passthrough", lambda: disk.show()["front"]["mode"] == "passthrough")
    for number in range(3):
        load.goes_on()
        os.kill(process.worker(), signal.SIGKILL)
        load.goes_on()
        load.check(f"after {number + 1} kills")
    cvd("snap", f"{pool}/base", "--name", "meanwhile")
    load.goes_on()
    load.finish()
    t.equal(kernel_errors(guest), "")
    guest.power_off()
    disk.stop()
    process.stop()
    check(pool)


@limit(1200)
def test_killed(t):
    """The pool's process is killed again and again under the verified load of eight disks, while it merges equal blocks."""
    pool, _ = make_pool(t, "--share", "writes", "--rate", "64M")
    process = t.use(PoolProcess(pool, t.folder))
    cvd("dup", f"{pool}/base@v1", "vm", "--count", DISKS)
    names = [f"vm{n}" for n in range(1, DISKS + 1)]
    disk = t.soft_disk(chain(pool, names[0]), disk=names[0],
                       more={name: chain(pool, name) for name in names[1:]})
    generator = random.Random(3)
    killed = snapshots = 0
    while killed < KILLS:
        loads = [load_of(t, disk, 12, name) for name in names]
        time.sleep(0.5)
        end = time.monotonic() + 10
        while time.monotonic() < end and killed < KILLS and all(l.running() for l in loads):
            os.kill(process.worker(), signal.SIGKILL)
            killed += 1
            time.sleep(generator.uniform(0.1, 0.6))
            cvd("snap", f"{pool}/vm{1 + killed % DISKS}", "--name", f"s{killed}")
            snapshots += 1
        results = [load.judge(t) for load in loads]
    t.log(f"{killed} kills, {sum(r['requests'] for r in results)} requests in the last round")
    listed = sum(len(json.loads(cvd("snaps", f"{pool}/{name}", "--json"))) for name in names)
    t.equal(listed, snapshots, "snapshots")
    disk.stop()
    process.stop()
    t.log(f"{json.loads(cvd('pool', 'info', pool, '--json'))['saved']} bytes are shared")
    check(pool)
