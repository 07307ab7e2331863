"""Chains changed while they serve: insert, remove, move, replace, change.

DEVTAP_CHANGE_OPERATIONS says how many random operations run under verified load (the full number is
1000); DEVTAP_CHANGE_KILLS how many workers are killed between them.
"""

import os
import random
import re
import subprocess
import time

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.change import LAYERS, change, names, report, show, step
from devtap_test.load import Load, VerifiedLoad, kernel_errors

MIB = 1 << 20
OPERATIONS = int(os.environ.get("DEVTAP_CHANGE_OPERATIONS", "60"))
KILLS = int(os.environ.get("DEVTAP_CHANGE_KILLS", "10"))


def operate(t, disk, depth, operations, kills=0, extensions=LAYERS):
    """Random operations under load."""
    generator = random.Random(depth)
    drains, switches, done, killed = [], [], 0, 0
    while done < operations:
        load = Load(t, disk, 600, "--depth", str(depth))
        end = time.monotonic() + 10
        time.sleep(0.3)
        while done < operations and load.running() and time.monotonic() < end:
            try:
                outcome = change(disk, *step(generator, names(disk), extensions))
                drains.append(outcome["drain_ns"])
                switches.append(outcome["switch_ns"])
            except RuntimeError as error: # a kill undid the change before, and its layer is not there
                if not kills:
                    raise
                t.log(f"operation {done}: {error}")
            done += 1
            if killed < kills and done % max(1, operations // kills) == 0:
                disk.kill_worker()
                killed += 1
        load.stop(t, after=1)
    t.log(f"depth {depth}: {done} operations, {killed} kills, chain at the end: {names(disk)}")
    report(t, "drain of what was in flight", drains)
    report(t, "added beyond the drain", switches)


@limit(3600)
def test_random_operations(t):
    """Content-neutral layers come, go and move; in the worker, on one thread and on two."""
    disk = t.soft_disk(f"file path={t.sparse_file(256 * MIB)}")
    operate(t, disk, 64, OPERATIONS)
    operate(t, disk, 128, OPERATIONS)


@limit(3600)
def test_random_operations_and_kills(t):
    """A changed chain survives its worker's death; a change that was cut short did not happen."""
    disk = t.soft_disk(f"file path={t.sparse_file(256 * MIB)}",
                       options=("--threads", "2", "--threads-per-disk", "2"))
    per_queue = [layer for layer in LAYERS if not layer.startswith("error")]
    operate(t, disk, 64, OPERATIONS, KILLS, per_queue)


@limit(300)
def test_refusals(t):
    """What is refused leaves the chain as it was, and says why; a failed open too."""
    image, other = t.sparse_file(64 * MIB), t.sparse_file(64 * MIB, "other.img")
    small = t.sparse_file(32 * MIB, "small.img")
    disk = t.soft_disk(f"throttle iops=1M | file path={image}")
    load = Load(t, disk, 600)
    time.sleep(0.3)
    for words, why in (
            (("insert", "vm1", "top", "nobody"), "known only once it is loaded"),
            (("insert", "vm1", "top", "throttle", "iops=x"), "not a number"),
            (("insert", "vm1", "top", "readonly"), "the guest was told that it can"),
            (("insert", "vm1", "9", "delay"), "positions 1 to 2"),
            (("remove", "vm1", "file"), "is the back"),
            (("replace", "vm1", "file", f"file path={other}"), "could read other data"),
            (("replace", "vm1", "file", f"file path={t.folder}/none.img", "--force"), "does not exist"),
            (("replace", "vm1", "file", f"file path={small}", "--force"), "33554432 bytes, not 67108864"),
            (("insert", "--dry-run", "vm1", "top", "readonly"), "the guest was told that it can"),
            (("replace", "--dry-run", "vm1", "file", f"file path={other}"), "could read other data"),
            (("change", "vm1", "insert top delay", "remove nobody"), "no layer 'nobody'")):
        done = subprocess.run([disk.binary(), *words], env=disk.environment, text=True,
                              capture_output=True, check=False, timeout=120)
        assert done.returncode and re.search(why, done.stderr), f"{words}: {done}"
        t.log(words, "->", done.returncode, done.stderr.strip())
    t.equal(names(disk), ["throttle", "file"])
    plan = disk.devtap("insert", "--dry-run", "vm1", "top", "trace", f"out={t.folder}/t")
    assert "a new worker would serve it" in plan, plan
    assert "in place" in disk.devtap("insert", "--dry-run", "vm1", "top", "delay")
    t.equal(names(disk), ["throttle", "file"])
    load.stop(t, after=1)


@limit(300)
def test_outside(t):
    """A layer that needs a file, a replaced back: a successor serves them, and keeps what stays."""
    image, other = t.sparse_file(64 * MIB), t.sparse_file(64 * MIB, "other.img")
    disk = t.soft_disk(f"error probability=0% | file path={image}", more={"vm2": "mem size=64M"})
    before = disk.operations("file", "read")
    load = Load(t, disk, 600)
    time.sleep(0.5)
    outcome = change(disk, "insert", "top", f"trace out={t.folder}/t")
    t.equal(outcome["outside"], "trace")
    disk.set("error", after=5)
    change(disk, "change", "remove trace", "insert bottom delay time=100us")
    t.equal(names(disk), ["error", "delay", "file"])
    disk.kill_worker()
    wait_for("the chain after a kill", lambda: names(disk) == ["error", "delay", "file"])
    disk.devtap("upgrade", "vm1")
    t.equal(names(disk), ["error", "delay", "file"])
    assert disk.operations("file", "read") >= before
    load.stop(t, after=1)
    disk.devtap("replace", "--force", "vm1", "file", f"file path={other}")
    shown = show(disk)
    t.equal(shown["chain"][-1]["parameters"]["path"], str(other))
    assert f"file path={other}" in shown["written"], shown["written"]


@limit(300)
def test_single(t):
    """One process, no sandbox: even what opens files is done in place."""
    disk = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}", options=("--single",))
    load = Load(t, disk, 600)
    time.sleep(0.3)
    outcome = change(disk, "insert", "top", f"trace out={t.folder}/t")
    assert "outside" not in outcome, outcome
    change(disk, "change", "insert bottom delay probability=1% time=1ms", "move trace bottom")
    t.equal(names(disk), ["delay", "trace", "file"])
    change(disk, "remove", "trace")
    other = t.sparse_file(64 * MIB, "other.img")
    load.stop(t, after=1)
    change(disk, "replace", "--force", "file", f"file path={other}")
    t.equal(names(disk), ["delay", "file"])


@limit(600)
def test_guest(t):
    """A real guest under fio while its chain changes; its kernel complains of nothing."""
    disk = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}")
    guest = t.guest([Disk(disk.socket)])
    load = VerifiedLoad(guest)
    generator = random.Random(5)
    load.goes_on()
    for _ in range(max(10, OPERATIONS // 6)):
        change(disk, *step(generator, names(disk), LAYERS))
        time.sleep(0.1)
    change(disk, "insert", "top", f"trace out={t.folder}/t")
    load.goes_on()
    load.finish()
    t.equal(kernel_errors(guest), "")


@limit(300)
def test_quiesce(t):
    """Three disks of two processes at rest while a command runs: nothing is served, and then all goes on."""
    disk = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}", more={"vm2": "delay time=5ms | mem size=64M"})
    other = t.soft_disk("mem size=64M", disk="vm3")
    load, beside = Load(t, disk, 600), Load(t, other, 600)
    time.sleep(0.5)
    script = ("now() { for d in vm1 vm3; do $D stats $d | tail -n +2; done; }; a=$(now); sleep 0.3; b=$(now); "
              "[ \"$a\" = \"$b\" ] && exit 42; echo \"$a\" \"$b\"; exit 1")
    before = disk.operations("file", "write")
    done = subprocess.run([disk.binary(), "quiesce", "--flush", "--patience", "8s", "--hold", "200s", "vm1", "vm2", "vm3", "--", "sh", "-c", script],
                          env=dict(disk.environment, D=disk.binary()), text=True, capture_output=True,
                          check=False, timeout=120)
    t.equal(done.returncode, 42, str(done))
    wait_for("the load to go on", lambda: disk.operations("file", "write") > before + 10)
    late = subprocess.run([disk.binary(), "quiesce", "--hold", "200ms", "vm1", "--", "sleep", "1"],
                          env=disk.environment, text=True, capture_output=True, check=False, timeout=120)
    assert late.returncode == 1 and "not at rest to the end" in late.stderr, late
    refused = subprocess.run([disk.binary(), "quiesce", "vm1", "nobody", "--", "true"],
                             env=disk.environment, text=True, capture_output=True, check=False, timeout=120)
    t.equal(refused.returncode, 3, str(refused))
    killed = subprocess.Popen([disk.binary(), "quiesce", "--hold", "500ms", "vm1", "--", "sleep", "5"],
                              env=disk.environment)
    time.sleep(0.2)
    killed.kill()
    killed.wait()
    before = disk.operations("file", "write")
    wait_for("the load to go on", lambda: disk.operations("file", "write") > before + 10)
    load.stop(t, after=1)
    beside.stop(t)
