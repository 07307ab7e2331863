"""The tap put before the back end of a running VM, and taken away again."""

import json
import os
import pathlib
import subprocess
import sys

from devtap_test import Disk, StorageDaemon, wait_for
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, fio_verify, kernel_errors
from devtap_test.process import Process
from devtap_test.qmp import Qmp
from devtap_test.softdisk import SoftDisk

MIB = 1 << 20
PATIENT = ("--timeout", "100s")  # QEMU and the guest take their time, on a busy machine more


def tool(t, *arguments, timeout=240):
    """Runs devtap; returns its status, and what it printed."""
    patient = PATIENT if arguments[0] in ("attach", "detach") else ()
    done = subprocess.run([SoftDisk.binary(), arguments[0], *patient, *arguments[1:]], text=True, capture_output=True,
                          timeout=timeout, check=False,
                          env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder)))
    t.log(arguments, done.returncode, done.stdout, done.stderr)
    return done.returncode, done.stdout, done.stderr


def must(t, *arguments):
    """Runs devtap, which must succeed; returns what it printed."""
    status, out, err = tool(t, *arguments)
    assert status == 0, f"devtap {' '.join(arguments)}: status {status}: {err}"
    return out


def attach(t, guest, *options, chardev="chr0", timeout=240):
    """`devtap attach`, until it serves."""
    return t.use(Process([SoftDisk.binary(), "attach", *PATIENT, "--disk", "tap", *options,
                          str(guest.folder / f"{guest.name}-qmp"), chardev],
                         t.folder, name="attach", ready_line="stands before", timeout=timeout,
                         env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder))))


def qmp_free(guest):
    """QMP serves one client: the test's gives way."""
    guest.qmp.close()
    guest.qmp = None
    return str(guest.folder / f"{guest.name}-qmp")


def under_load(t, back, packed=False):
    """Attach, insert, detach, and once more, while the guest verifies what it wrote."""
    guest = t.guest([Disk(back.socket, queues=2, reconnect=1, packed=packed)], smp=2)
    qmp = qmp_free(guest)
    load = VerifiedLoad(guest, jobs=2)
    load.goes_on()
    for _ in range(2):
        plan = must(t, "attach", "--dry-run", qmp, "chr0")
        assert "rename" in plan and pathlib.Path(back.socket).is_socket(), plan
        tap = attach(t, guest)
        load.goes_on()
        must(t, "insert", "tap", "top", "trace", f"out={t.folder}/t.dtt")
        load.goes_on()
        shown = json.loads(must(t, "show", "--json", "tap"))
        t.equal([layer["name"] for layer in shown["chain"]], ["trace", "vhost-user"])
        must(t, "remove", "tap", "trace")
        said = json.loads(must(t, "detach", "--json", qmp, "chr0", "tap"))
        assert said["detached"] and said["pause_ms"] > 0, said
        t.equal(tap.child.wait(120), 0, "exit status of attach")
        assert not os.path.exists(back.socket + ".rear")
        load.goes_on()
    load.finish()
    t.equal(kernel_errors(guest), "")


def test_storage_daemon(t):
    """qemu-storage-daemon as the back end, which keeps no log."""
    under_load(t, t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder, queues=2)))


def test_devtap(t):
    """Another devtap as the back end."""
    under_load(t, t.soft_disk(f"file path={t.sparse_file(64 * MIB)}", disk="rear"), packed=True)


def test_refused(t):
    """What cannot be is said before anything is done, and the guest works on."""
    daemon = t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder, queues=2))
    guest = t.guest([Disk(daemon.socket, queues=2, reconnect=1)], smp=2)
    guest.qmp.command("stop")
    qmp = qmp_free(guest)
    status, _, said = tool(t, "attach", "--disk", "tap", qmp, "chr0")
    assert status == 4 and "not running" in said, (status, said)
    guest.qmp = Qmp(qmp)
    guest.qmp.command("cont")
    qmp = qmp_free(guest)
    load = VerifiedLoad(guest, jobs=2)
    load.goes_on()
    check_impostor(t, guest, daemon.socket)
    for arguments, expected, word in (((qmp, "nobody"), 3, "nobody"),
                                      ((qmp, "console"), 1, "no connection"),
                                      (("--rear", daemon.socket, qmp, "chr0"), 4, "taken"),
                                      (("--layers", "no-such-layer", qmp, "chr0"), 3, "no-such-layer"),
                                      (("--layers", "throttle iops=x", qmp, "chr0"), 2, "iops"),
                                      (("--rear-options", "queue-size=1", qmp, "chr0"), 2, "queue-size")):
        status, _, said = tool(t, "attach", "--disk", "tap", *arguments)
        assert status == expected and word in said, (arguments, status, said)
        assert pathlib.Path(daemon.socket).is_socket() and not os.path.exists(daemon.socket + ".rear")
        load.goes_on()
    load.finish()
    t.equal(kernel_errors(guest), "")


# QMP of a QEMU that calls itself another.
IMPOSTOR = """
import json, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
answers = {"qom-get": {"type": "unix", "path": sys.argv[2]}, "query-cpus-fast": [{"thread-id": int(sys.argv[3])}]}
lines = server.accept()[0].makefile("rw")
print(json.dumps({"QMP": {}}), file=lines, flush=True)
for line in lines:
    print(json.dumps({"return": answers.get(json.loads(line)["execute"], {})}), file=lines, flush=True)
"""


def check_impostor(t, guest, socket):
    """Another user's process cannot have root cut the connection of a VM that is not its own."""
    if os.geteuid() != 0:
        return
    folder = t.folder / "impostor"
    folder.mkdir()
    folder.chmod(0o777)
    for each in (t.folder, t.folder.parent):
        each.chmod(0o755)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with Process([*nobody, sys.executable, "-c", IMPOSTOR, folder / "qmp", socket, guest.process.pid], t.folder,
                 name="impostor", ready_socket=str(folder / "qmp")):
        status, _, said = tool(t, "attach", "--disk", "tap", str(folder / "qmp"), "chr0")
    assert status == 5 and f"says that QEMU is process {guest.process.pid}" in said, (status, said)


def test_undone(t):
    """What fails when the connection is cut already is undone; the back end's in-flight log has the rest."""
    back = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}", disk="rear")
    guest = t.guest([Disk(back.socket, queues=2, reconnect=1)], smp=2)
    qmp = qmp_free(guest)
    load = VerifiedLoad(guest, jobs=2)
    for _ in range(2):
        load.goes_on()
        status, _, said = tool(t, "attach", "--disk", "tap", "--rear-options", "queue-size=17", qmp, "chr0")
        assert status == 1 and "power of two" in said and "ended" in said, (status, said)
        assert pathlib.Path(back.socket).is_socket() and not os.path.exists(back.socket + ".rear")
    load.goes_on()
    load.finish()
    t.equal(kernel_errors(guest), "")


def await_disk(guest, path, digest):
    """The disk is in its slot again, with its contents."""
    wait_for("the guest's disk", lambda: guest.run(f"test -b /dev/vda && test -e {path}/block/vda")[0] == 0,
             interval=0.2)
    assert guest.check("dd if=/dev/vda bs=1M count=4 iflag=direct status=none | md5sum").split()[0] == digest


@limit(120)
def test_replug(t):
    """A chardev that does not connect again: the disk is unplugged, and comes back in its slot behind the tap; and
    once more on the way back."""
    daemon = t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder, queues=2))
    guest = t.guest([Disk(daemon.socket, queues=2, extra="bus=rp0")], smp=2,
                    before=["-device", "pcie-root-port,id=rp0,chassis=1"])
    guest.check("dd if=/dev/urandom of=/dev/vda bs=1M count=4 oflag=direct status=none")
    digest = guest.check("dd if=/dev/vda bs=1M count=4 iflag=direct status=none | md5sum").split()[0]
    path = guest.check("readlink -f /sys/block/vda/device").strip()
    qmp = qmp_free(guest)
    plan = must(t, "attach", "--dry-run", "--replug", qmp, "chr0")
    assert "unplug device disk0, which the guest sees" in plan and "at rp0, slot 0.0" in plan, plan
    await_disk(guest, path, digest)
    tap = attach(t, guest, "--replug")
    await_disk(guest, path, digest)
    must(t, "insert", "tap", "top", "throttle", "iops=100000")
    fio_verify(guest, size="8m", options="--offset=16m")
    status, _, said = tool(t, "detach", qmp, "chr0", "tap")
    assert status == 4 or "--replug" in said, (status, said)
    said = json.loads(must(t, "detach", "--json", "--replug", qmp, "chr0", "tap"))
    assert said["detached"] and not os.path.exists(daemon.socket + ".rear"), said
    t.equal(tap.child.wait(120), 0, "exit status of attach")
    await_disk(guest, path, digest)
    fio_verify(guest, size="8m", options="--offset=16m")


def plug_over_qmp(guest, socket):
    """A disk that QEMU's command line knows nothing of."""
    address = {"type": "unix", "data": {"path": str(socket)}}
    guest.qmp.command("chardev-add", id="late",
                      backend={"type": "socket", "data": {"addr": address, "server": False}})
    guest.qmp.command("device_add", driver="vhost-user-blk-pci", id="disk9", chardev="late", bus="rp0",
                      num_queues=3, queue_size=64)


@limit(180)
def test_replug_came_over_qmp(t):
    """The same with a disk that was added over QMP: it comes back as it was."""
    daemon = t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder, queues=3))
    guest = t.guest([], smp=2, before=["-device", "pcie-root-port,id=rp0,chassis=1"])
    plug_over_qmp(guest, daemon.socket)
    wait_for("the disk", lambda: guest.run("test -b /dev/vda")[0] == 0)
    guest.check("dd if=/dev/urandom of=/dev/vda bs=1M count=4 oflag=direct status=none")
    digest = guest.check("dd if=/dev/vda bs=1M count=4 iflag=direct status=none | md5sum").split()[0]
    path = guest.check("readlink -f /sys/block/vda/device").strip()
    features = guest.check("cat /sys/block/vda/device/features")
    qmp = qmp_free(guest)
    tap = attach(t, guest, "--replug", chardev="late")
    await_disk(guest, path, digest)
    t.equal(guest.check("ls /sys/block/vda/mq | wc -l").strip(), "2", "queues for two processors")
    t.equal(guest.check("cat /sys/block/vda/device/features"), features, "features")
    fio_verify(guest, size="4m", options="--offset=16m")
    must(t, "detach", "--replug", qmp, "late", "tap")
    t.equal(tap.child.wait(120), 0, "exit status of attach")
    await_disk(guest, path, digest)
    fio_verify(guest, size="4m", options="--offset=16m")


@limit(120)
def test_replug_undone(t):
    """What fails when the disk is out already: it comes back, with its own back end."""
    daemon = t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder, queues=2))
    guest = t.guest([Disk(daemon.socket, queues=2, extra="bus=rp0")], smp=2,
                    before=["-device", "pcie-root-port,id=rp0,chassis=1"])
    path = guest.check("readlink -f /sys/block/vda/device").strip()
    digest = guest.check("dd if=/dev/vda bs=1M count=4 iflag=direct status=none | md5sum").split()[0]
    qmp = qmp_free(guest)
    status, _, said = tool(t, "attach", "--disk", "tap", "--replug", "--rear-options", "queue-size=17", qmp,
                           "chr0")
    assert status == 1 and "power of two" in said and "ended" in said, (status, said)
    await_disk(guest, path, digest)
    fio_verify(guest, size="8m")


@limit(120)
def test_replug_refused(t):
    """What cannot or should not be unplugged is left alone."""
    daemons = [t.use(StorageDaemon(t.sparse_file(64 * MIB, name=f"{n}.img"), t.folder))
               for n in range(2)]
    guest = t.guest([Disk(daemons[0].socket), Disk(daemons[1].socket, bootindex=9, extra="bus=rp0")],
                    before=["-device", "pcie-root-port,id=rp0,chassis=1"])
    qmp = qmp_free(guest)
    for chardev, expected, word in (("chr0", 1, "hotplug"), ("chr1", 5, "boot")):
        status, _, said = tool(t, "attach", "--disk", "tap", "--replug", qmp, chardev)
        assert status == expected and word in said, (chardev, status, said)
    fio_verify(guest, size="1m")
    fio_verify(guest, device="/dev/vdb", size="1m")


def test_no_reconnect(t):
    """A chardev that does not connect again: refused, with the way that is left."""
    daemon = t.use(StorageDaemon(t.sparse_file(64 * MIB), t.folder))
    guest = t.guest([Disk(daemon.socket)])
    qmp = qmp_free(guest)
    status, _, said = tool(t, "attach", qmp, "chr0")
    assert status != 0 and "reconnect" in said and "re-plug" in said, (status, said)
    fio_verify(guest, size="1m")
