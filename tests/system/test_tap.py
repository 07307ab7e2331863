"""The tap as a whole: layers and modes change over a rear while a load verifies all that it wrote.

DEVTAP_CHANGE_OPERATIONS says how many random operations are done at each depth (the full number is 1000).
"""

import os
import random
import time

from devtap_test import StorageDaemon, wait_for
from devtap_test.case import limit
from devtap_test.change import LAYERS, change, names, report, show, step
from devtap_test.load import Load

MIB = 1 << 20
OPERATIONS = int(os.environ.get("DEVTAP_CHANGE_OPERATIONS", "60"))


def switch_mode(disk, figures):
    """Passthrough where it interposes, and back."""
    front = show(disk)["front"]
    wanted = "interpose" if front["mode"] == "passthrough" else "passthrough"
    said = disk.devtap("mode", disk.disk, wanted).strip()
    assert said == wanted, f"asked for {wanted}: {said}"
    front = show(disk)["front"]
    kind = "enter" if wanted == "passthrough" else "leave"
    figures[f"{kind}: drain"].append(front["mode_drain_ns"])
    figures[f"{kind}: added"].append(front["mode_switch_ns"])


def operate(t, disk, depth):
    """Random operations, among them changes of mode, under verified load."""
    generator = random.Random(depth)
    figures = {f"{kind}: {what}": [] for kind in ("chain", "enter", "leave")
               for what in ("drain", "added")}
    done = 0
    while done < OPERATIONS:
        load = Load(t, disk, 12, "--event-idx", "--depth", str(depth))
        end = time.monotonic() + 10
        time.sleep(0.3)
        while done < OPERATIONS and load.running() and time.monotonic() < end:
            if generator.random() < 0.25:
                switch_mode(disk, figures)
            else:
                outcome = change(disk, *step(generator, names(disk), LAYERS))
                figures["chain: drain"].append(outcome["drain_ns"])
                figures["chain: added"].append(outcome["switch_ns"])
            done += 1
        if show(disk)["front"]["mode"] == "passthrough":
            switch_mode(disk, figures)
        load.judge(t)
    t.log(f"depth {depth}: {done} operations, chain at the end: {names(disk)}")
    for name, values in figures.items():
        report(t, name, values)


def over(t, rear):
    """Both depths before this rear."""
    disk = t.soft_disk(f"vhost-user path={rear.socket} on-rear-loss=fail", disk="tap")
    operate(t, disk, 64)
    operate(t, disk, 128)


@limit(3600)
def test_random_storage_daemon(t):
    """qemu-storage-daemon as the rear."""
    over(t, t.use(StorageDaemon(t.sparse_file(256 * MIB), t.folder)))


@limit(3600)
def test_random_devtap(t):
    """Another devtap as the rear."""
    over(t, t.soft_disk(f"file path={t.sparse_file(256 * MIB)}", disk="rear"))


@limit(300)
def test_front_killed(t):
    """The VM's side is killed under load, alone, with the rear, with our worker; in both modes. The next one is served."""
    rear = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}", disk="rear")
    disk = t.soft_disk(f"vhost-user path={rear.socket}", disk="tap")
    for number in range(6):
        load = Load(t, disk, 60, "--depth", "32")
        wait_for("a front", lambda: show(disk)["front"]["attached"])
        if number % 2:
            disk.devtap("mode", disk.disk, "passthrough")
        time.sleep(0.5)
        assert load.running(), load.out.read()
        load.child.kill()
        if number % 3 == 1:
            rear.kill()
        if number % 3 == 2:
            disk.kill_worker()
        load.child.wait()
        if number % 3 == 1:
            rear.restart()
        wait_for("the session to end", lambda: not show(disk)["front"]["attached"])
        disk.devtap("mode", disk.disk, "interpose")
        after = Load(t, disk, 1)
        after.judge(t)
    t.equal(disk.stats()["vhost-user"]["counters"]["rear-lies"], 0, "lies")
