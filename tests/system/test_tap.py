"""The tap as a whole: layers and modes change over a rear while a load verifies all that it wrote.

The load is fio in a guest, and once more devtap's own driver, which is much faster than a guest without KVM.
DEVTAP_CHANGE_OPERATIONS says how many random operations are done under each at each depth (the full number is 1000),
DEVTAP_CHANGE_KILLS how often somebody is killed between them.
"""

import os
import random
import threading
import time

from devtap_test import Disk, StorageDaemon, wait_for
from devtap_test.case import limit
from devtap_test.change import LAYERS, change, names, report, show, step
from devtap_test.load import Load, VerifiedLoad, kernel_errors

MIB = 1 << 20
OPERATIONS = int(os.environ.get("DEVTAP_CHANGE_OPERATIONS", "40"))
KILLS = int(os.environ.get("DEVTAP_CHANGE_KILLS", "0"))
FEW = OPERATIONS < 100  # then the guest has one depth for each rear
DEPTHS = (64, 128)


class Operations:
    """Random operations on a tap, and how long they took.

    own: a back of ours that holds what the rear does, for intercept; None where there is none.
    """

    def __init__(self, t, disk, seed, own=None):
        self.t, self.disk, self.own = t, disk, own
        self.generator = random.Random(seed)
        self.done = 0
        self.figures = {f"{kind}: {what}": [] for kind in ("chain", "enter", "leave")
                        for what in ("drain", "added")}
        if own:
            self.figures["to another back and from it: the command"] = []

    def mode(self):
        """The present one."""
        return show(self.disk)["front"]["mode"]

    def change_mode(self, wanted):
        """Between passthrough and interpose."""
        said = self.disk.devtap("mode", self.disk.disk, wanted).strip()
        assert said == wanted, f"asked for {wanted}: {said}"
        front = show(self.disk)["front"]
        kind = "enter" if wanted == "passthrough" else "leave"
        self.figures[f"{kind}: drain"].append(front["mode_drain_ns"])
        self.figures[f"{kind}: added"].append(front["mode_switch_ns"])

    def change_back(self, *wanted):
        """To a back of ours, or from it to the rear."""
        began = time.monotonic()
        said = self.disk.devtap("mode", "--force", self.disk.disk, *wanted).strip()
        assert said == wanted[0], f"asked for {wanted}: {said}"
        self.figures["to another back and from it: the command"].append((time.monotonic() - began) * 1e9)

    def one(self):
        """Any of them."""
        dice, shown = self.generator.random(), show(self.disk)
        mode = shown["front"]["mode"]
        if dice < 0.08 and self.own:
            self.change_back(*(("interpose",) if mode == "intercept" else ("intercept", self.own)))
        elif dice < 0.3 and mode != "intercept":
            self.change_mode("interpose" if mode == "passthrough" else "passthrough")
        else:
            chain = [layer["name"] for layer in shown["chain"]]
            outcome = change(self.disk, *step(self.generator, chain, LAYERS))
            self.figures["chain: drain"].append(outcome["drain_ns"])
            self.figures["chain: added"].append(outcome["switch_ns"])
        self.done += 1

    def end(self):
        """Leaves the rear attached, and the chain before it."""
        mode = self.mode()
        if mode == "passthrough":
            self.change_mode("interpose")
        elif mode == "intercept":
            self.change_back("interpose")

    def report(self, what):
        """Prints the figures."""
        self.t.log(f"{what}: {self.done} operations, chain at the end: {names(self.disk)}")
        for name, values in self.figures.items():
            if values:
                report(self.t, name, values)


def over(t, rear):
    """Both depths before this rear, by devtap's own driver."""
    disk = t.soft_disk(f"vhost-user path={rear.socket} on-rear-loss=fail", disk="tap")
    for depth in DEPTHS:
        operations = Operations(t, disk, depth)
        while operations.done < OPERATIONS:
            load = Load(t, disk, 3600, "--event-idx", "--depth", str(depth))
            end = time.monotonic() + 10
            time.sleep(0.3)
            while operations.done < OPERATIONS and load.running() and time.monotonic() < end:
                operations.one()
            operations.end()
            load.stop(t)
        operations.report(f"depth {depth}")


@limit(3600)
def test_random_storage_daemon(t):
    """qemu-storage-daemon as the rear."""
    over(t, t.use(StorageDaemon(t.sparse_file(256 * MIB), t.folder)))


@limit(3600)
def test_random_devtap(t):
    """Another devtap as the rear."""
    over(t, t.soft_disk(f"file path={t.sparse_file(256 * MIB)}", disk="rear"))


def in_flight(guest, device):
    """Requests that the guest's kernel waits for."""
    return sum(map(int, guest.check(f"cat /sys/block/{device}/inflight").split()))


def under_fio(t, guest, disk, device, own, depths):
    """One of the guest's disks."""
    for depth in depths:
        load = VerifiedLoad(guest, jobs=2, device=f"/dev/{device}", depth=depth, size="16m")
        load.goes_on()
        operations, most = Operations(t, disk, depth, own), 0
        while operations.done < OPERATIONS:
            operations.one()
            if operations.done % 10 == 0:
                load.goes_on()
                most = max(most, in_flight(guest, device))
        operations.end()
        load.goes_on()
        passes = load.finish()
        operations.report(f"fio before {disk.disk}, two jobs of depth {depth}, {passes} passes, up to {most} in flight")
        assert FEW or most > depth, f"{most} in flight"  # a few looks may all meet a pause between two passes


@limit(7200)
def test_random_fio(t):
    """fio in a guest verifies what it writes to two disks, before qemu-storage-daemon and before another devtap; now and
    then a back of ours, of the same file, takes the rear's place."""
    images = [t.sparse_file(128 * MIB, name) for name in ("a.img", "b.img")]
    rears = (t.use(StorageDaemon(images[0], t.folder, queues=2, locking=False)),
             t.soft_disk(f"file path={images[1]} lock=off", disk="rear"))
    taps = [t.soft_disk(f"vhost-user path={rear.socket} on-rear-loss=fail", disk=name)
            for rear, name in zip(rears, ("qemu-storage-daemon", "devtap"))]
    guest = t.guest([Disk(tap.socket, queues=2, queue_size=256) for tap in taps], smp=2)
    for tap, device, image, depth in zip(taps, ("vda", "vdb"), images, DEPTHS):
        under_fio(t, guest, tap, device, f"file path={image} lock=off", (depth,) if FEW else DEPTHS)
    t.equal(kernel_errors(guest), "")


def test_changed_without_rear(t):
    """While the rear is gone the chain changes when `--patience` is at its end; what the rear held waits on for it, however often."""
    rear = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}", disk="rear")
    disk = t.soft_disk(f"vhost-user path={rear.socket}", disk="tap")
    load = Load(t, disk, 3600, "--depth", "32")
    for _ in range(3):
        wait_for("a front", disk.attached)
        time.sleep(0.3)
        rear.kill()
        disk.devtap("insert", "--patience", "500ms", disk.disk, "top", "delay time=1us")
        disk.devtap("remove", "--patience", "500ms", disk.disk, "delay")
        assert load.running(), load.out.read()
        rear.restart()
        before = disk.operations("vhost-user", "write")
        wait_for("the load to go on", lambda: disk.operations("vhost-user", "write") > before + 100)
    load.stop(t)


class Operators(threading.Thread):
    """Operations one after the other, until told to stop; some are refused."""

    def __init__(self, operations):
        super().__init__()
        self.operations, self.refusals, self.stopping = operations, [], False

    def run(self):
        while not self.stopping:
            try:
                self.operations.one()
            except (AssertionError, RuntimeError, TimeoutError) as refusal:
                self.refusals.append(str(refusal))


@limit(300)
def test_random_kills(t):
    """The rear, our worker or both are killed while operations run: some of these are refused, and nothing is lost."""
    if not KILLS:
        t.skip("DEVTAP_CHANGE_KILLS says how many")
    rear = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}", disk="rear")
    disk = t.soft_disk(f"vhost-user path={rear.socket}", disk="tap")
    load = Load(t, disk, 300, "--event-idx", "--depth", "64")
    wait_for("a front", disk.attached)
    dice, operators = random.Random(7), Operators(Operations(t, disk, 7))
    operators.start()
    for number in range(KILLS):
        time.sleep(dice.uniform(0.1, 0.5))
        if number % 3 != 1:
            rear.kill()
        if number % 3 != 0:
            disk.kill_worker()
        if number % 3 != 1:
            time.sleep(dice.uniform(0, 0.2))
            rear.restart()
        wait_for("a worker", disk.attached)
    operators.stopping = True
    operators.join()
    assert load.running(), load.out.read()
    wait_for("the rear", lambda: disk.devtap("mode", disk.address, "interpose").strip() == "interpose")
    before = disk.operations("vhost-user", "write")
    wait_for("the load to go on", lambda: disk.operations("vhost-user", "write") > before + 100)
    t.log("\n".join(operators.refusals))
    t.log(f"{operators.operations.done} operations, {len(operators.refusals)} refused, {KILLS} kills")
    load.stop(t)
    t.equal(disk.stats()["vhost-user"]["counters"]["rear-lies"], 0, "lies")


@limit(300)
def test_front_killed(t):
    """The VM's side is killed under load, alone, with the rear, with our worker; in both modes. The next one is served."""
    rear = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}", disk="rear")
    disk = t.soft_disk(f"vhost-user path={rear.socket}", disk="tap")
    for number in range(6):
        load = Load(t, disk, 3600, "--depth", "32")
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
