"""Workers, keepers and upgrades under verified load: nobody may notice.

DEVTAP_CRASH_KILLS, DEVTAP_CRASH_GUEST_KILLS, and the same for _UPGRADES, say how often (bench/crash has
the full numbers). The load is devtap's own driver, which does not reconnect and does
without the back end's in-flight log, and a real guest whose QEMU does not reconnect.
"""

import json
import mmap
import os
import random
import re
import signal
import struct
import subprocess
import time

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.load import Load, VerifiedLoad, kernel_errors, percentiles
from devtap_test.softdisk import SoftDisk

MIB = 1 << 20
KILLS = int(os.environ.get("DEVTAP_CRASH_KILLS", "100"))
GUEST_UPGRADES = int(os.environ.get("DEVTAP_CRASH_GUEST_UPGRADES", "2"))
GUEST_KILLS = int(os.environ.get("DEVTAP_CRASH_GUEST_KILLS", "15"))
UPGRADES = int(os.environ.get("DEVTAP_CRASH_UPGRADES", "10"))
# Of the 99th percentile, where the machine is known to have nothing else to do; pauses are told, not judged, otherwise.
BOUND_MS = float(os.environ.get("DEVTAP_CRASH_PAUSE_MS", "inf"))


class Recoveries:
    """Collects the pauses; the ring of events may be shorter than the test is long."""

    def __init__(self, disk):
        self.disk, self.seen, self.all = disk, 0, []

    def collect(self):
        """Reads what is new; returns how many there are by now."""
        for event in self.disk.events("recovered"):
            if event["number"] > self.seen:
                self.seen = event["number"]
                self.all.append(event)
        return len(self.all)

    def report(self, t):
        """Prints the figures; returns the p99 of the pause beyond the fence, in ms."""
        busy = [e for e in self.all if e["rings"]]
        percentiles(t, "fence", [e["fence_ns"] / 1e6 for e in busy])
        percentiles(t, "pause", [e["pause_ns"] / 1e6 for e in busy])
        t.log(f"{len(busy)} recoveries, {sum(e['replayed'] for e in busy)} requests run again")
        return percentiles(t, "pause beyond the fence",
                           [(e["pause_ns"] - e["fence_ns"]) / 1e6 for e in busy])


def kill_workers(t, chain, kills, *options, serve=()):
    """Kills the worker at random moments of a load that does not reconnect."""
    disk = t.soft_disk(chain, options=serve)
    recoveries = Recoveries(disk)
    generator = random.Random(1)
    killed = 0
    while killed < kills:
        load = Load(t, disk, 12, *options)
        time.sleep(0.3)
        end = time.monotonic() + 11
        while time.monotonic() < end and killed < kills and load.running():
            disk.kill_worker()
            killed += 1
            time.sleep(generator.uniform(0.02, 0.25))
        load.stop(t, after=1)
        recoveries.collect()
    p99 = recoveries.report(t)
    t.log(f"{killed} kills")
    assert p99 < BOUND_MS, f"p99 of the pause beyond the fence is {p99:.1f} ms"
    return disk


@limit(3600)
def test_kill_split(t):
    """File back: the fence has I/O of the dead to wait for."""
    kill_workers(t, f"file path={t.sparse_file(256 * MIB)}", KILLS)


@limit(1800)
def test_kill_packed_queues(t):
    """Packed rings, four queues on two threads, a held-up chain."""
    kill_workers(t, f"delay ops=read,write time=2ms | file path={t.sparse_file(256 * MIB)}",
                 max(5, KILLS // 4), "--packed", "--queues", "4", "--threads", "2",
                 serve=("--threads", "2", "--threads-per-disk", "2"))


def extension_of(disk):
    """The process of the one placed extension: by name, among all that descend from the worker."""
    for child in descendants(disk.worker()):
        try:
            with open(f"/proc/{child}/comm", encoding="ascii") as file:
                if file.read().strip() == "ext-host":
                    return child
        except (FileNotFoundError, ProcessLookupError):
            pass
    return None


def memory_file(pid, name):
    """A file in memory that a process has."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(f"/memfd:{name} "):
            return open(f"/proc/{pid}/fd/{fd}", "r+b")
    raise AssertionError(f"process {pid} has no {name}")


def is_saved(supervisor, what):
    """Is this among the state that a successor gets?"""
    with memory_file(supervisor, "devtap-state") as file, mmap.mmap(file.fileno(), 0) as memory:
        return memory.find(what) >= 0


def scribble(pid, name, after=b""):
    """Overwrites the beginning of such a file, or what follows each of these words, with what nobody wrote."""
    with memory_file(pid, name) as file, mmap.mmap(file.fileno(), 0) as memory:
        at = memory.find(after)
        while at >= 0:
            at += len(after)
            memory[at:at + 128] = random.Random(at).randbytes(128)
            at = memory.find(after, at) if after else -1


@limit(60)
def test_hostile_state(t):
    """What a dead worker leaves behind may be torn, or a trap: its successor says what is wrong with it."""
    if os.geteuid() != 0:
        t.skip("it writes into the memory of other processes")
    disk = t.soft_disk(f"{t.captive('memory')} | mem size=16M")
    supervisor, keeper = disk.show()["pid"], disk.keeper()
    load = Load(t, disk, 600)
    wait_for("a VM", disk.attached)
    wait_for("a write that is remembered", lambda: int(disk.do_json("memory", "count")["writes"]) > 0)
    wait_for("its state to be saved", lambda: is_saved(supervisor, b"memory\0"))
    worker = disk.worker()
    os.kill(worker, signal.SIGSTOP)
    scribble(keeper, "devtap-inflight")
    scribble(supervisor, "devtap-state", after=b"memory\0")
    os.kill(worker, signal.SIGKILL)
    wait_for("the end of the session", lambda: disk.events("session-broken"))
    reason = disk.events("session-broken")[0]["text"]
    t.log(reason)
    assert re.search(r"^the session broke: ring 0 cannot start: .*in-flight", reason), reason
    refused = disk.events("state-refused")
    assert len(refused) == 1 and refused[0]["layer"] == "memory", disk.events()
    assert load.child.wait() != 0, "the driver that lost its requests says nothing"
    t.equal(disk.keeper(), keeper, "the keeper")
    Load(t, disk, 1).judge(t)
    # What the guest was promised has no second source: nobody serves it by guesswork.
    scribble(supervisor, "devtap-state", after=b"floor\0")
    disk.kill_worker()
    why = "cannot serve: vm1: what its guest was promised is damaged"
    wait_for("a refusal", lambda: [e for e in disk.events("worker-died") if why in e["text"]])


def children(pid):
    """The processes that a process started."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found


def descendants(pid):
    """All processes that descend from one."""
    found = children(pid)
    return found + [each for child in found for each in descendants(child)]


@limit(3600)
def test_kill_extension(t):
    """The process of an extension that sees all data dies; nobody but the events tells."""
    xor = os.path.join(os.path.dirname(os.path.dirname(SoftDisk.binary())), "examples/xor.so")
    disk = t.soft_disk(f"{xor} key=90 place=process tries=1000000 | mem size=64M")
    generator = random.Random(3)
    pauses, seen, killed, kills = [], 0, 0, max(20, KILLS // 3 if KILLS < 1000 else KILLS)
    while killed < kills:
        load = Load(t, disk, 12)
        time.sleep(0.3)
        end = time.monotonic() + 11
        while time.monotonic() < end and killed < kills and load.running():
            victim = wait_for("a process", lambda: extension_of(disk))
            os.kill(victim, signal.SIGKILL)
            killed += 1
            time.sleep(generator.uniform(0.1, 0.2))
        load.stop(t, after=1)
        for event in disk.events("extension-restarted"):
            if event["number"] > seen:
                seen = event["number"]
                pauses.append(event["pause_ns"] / 1e6)
    t.equal(disk.events("worker-died"), [])
    t.equal({(e["layer"], e["why"], e["signal"]) for e in disk.events("extension-died")},
            {("xor", "signal", signal.SIGKILL)})
    t.log(f"{killed} kills, {len(pauses)} restarts told")
    p99 = percentiles(t, "pause", pauses)
    assert len(pauses) > killed // 2, f"{len(pauses)} restarts after {killed} kills"
    assert p99 < BOUND_MS, f"p99 of the pause is {p99:.1f} ms"


@limit(600)
def test_kill_keeper(t):
    """The VMM sees its connection end; it comes back, and nothing is lost."""
    disk = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}")
    load = Load(t, disk, 3600, "--reconnect", inflight=True)

    def connected(times):
        """A worker may think a while that it has a VM whose keeper is dead."""
        wait_for("the load's connection", lambda: len(disk.events("attached")) == times and disk.attached())

    for kills in range(5):
        connected(kills + 1)
        time.sleep(0.3)
        os.kill(disk.keeper(), signal.SIGKILL)
        wait_for("its end", lambda n=kills: len(disk.events("keeper-died")) == n + 1)
    connected(6)
    result = load.stop(t)
    t.equal(result["reconnects"], 5, "reconnects")
    t.equal(len(disk.events("keeper-died")), 5)


@limit(3600)
def test_upgrade(t):
    """Another binary takes over under load; one that cannot is refused, and the old one serves."""
    disk = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}")
    copy = t.folder / "devtap-next"
    subprocess.run(["cp", disk.binary(), copy], check=True)
    load = Load(t, disk, 12)
    time.sleep(0.5)
    recoveries = Recoveries(disk)
    for _ in range(UPGRADES // 2):
        if not load.running():
            load.judge(t)
            load = Load(t, disk, 12)
        disk.devtap("upgrade", disk.disk, "--binary", str(copy))
        t.equal(os.readlink(f"/proc/{disk.worker()}/exe"), str(copy))
        t.equal(os.readlink(f"/proc/{disk.keeper()}/exe"), str(copy))
        disk.devtap("upgrade", disk.disk)
        recoveries.collect()
        time.sleep(0.2)
    t.equal(os.readlink(f"/proc/{disk.keeper()}/exe"), disk.binary())
    load.stop(t, after=1)
    recoveries.collect()
    recoveries.report(t)
    # One between two loads has no ring to recover; that it was done, the verb has said.
    assert len(recoveries.all) > UPGRADES // 2, f"{len(recoveries.all)} recoveries"
    t.equal(sum(e["replayed"] for e in recoveries.all), 0, "requests run again by upgrades")
    t.equal(disk.events("session-broken"), [])


# Serves as NAME, as the real program would; as anything else it fails.
HALF = """
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "%s") == 0)
        execv("%s", argv);
    return 1;
}
"""


def half_a_program(t, disk, name):
    """A program of which only the keepers, or only the workers, can do anything."""
    source = t.folder / f"half-{name}.c"
    source.write_text(HALF % (name, disk.binary()), encoding="utf-8")
    subprocess.run(["cc", "-o", source.with_suffix(""), source], check=True)
    return source.with_suffix("")


@limit(120)
def test_upgrade_refused(t):
    """Whatever of a new program cannot take over: keepers and a worker of the old one serve on."""
    disk = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}", more={
        "vm2": f"file path={t.sparse_file(16 * MIB, 'second.img')}"})
    load = Load(t, disk, 600)
    time.sleep(0.5)
    before = disk.keeper()
    for binary, reason, serves_on in (
            ("/bin/false", "a keeper of the new program cannot take over", True),
            (half_a_program(t, disk, "worker"), "a keeper of the new program cannot take over", True),
            (half_a_program(t, disk, "keeper"), "one of the program before takes over again", False)):
        old = disk.worker()
        disk.refuses(reason, "upgrade", disk.disk, "--binary", str(binary))
        t.equal(disk.worker() == old, serves_on, f"the worker serves on after {binary}")
        t.equal(disk.keeper(), before, f"the keeper after {binary}")
        time.sleep(0.5)
    load.stop(t)
    t.equal(len(disk.events("upgrade-refused")), 3)
    t.equal([e for e in disk.events() if e["event"] in ("detached", "keeper-died")][:-1], [])


@limit(120)
def test_poison(t):
    """A request that kills its layer fails after two crashes; the others are served."""
    poison = t.captive("poison")
    disk = t.soft_disk(f"{poison} sector=8 | mem size=16M")
    result = disk.bench("--rw", "write", "--range", "1M", "--time", "2", "--depth", "4",
                        "--no-inflight", check=False)
    assert result["errors"] >= 1, result
    died = disk.events("worker-died")
    assert died and all(e["why"] == "assertion" for e in died), died
    assert result["requests"] > 10 * result["errors"], result
    t.log(f"{len(died)} deaths, {result['errors']} errors, {result['requests']} requests")


@limit(120)
def test_hang(t):
    """A request that hangs its layer is noticed, and fails after two workers; the others are served."""
    poison = t.captive("poison")
    disk = t.soft_disk(f"{poison} sector=8 hang=on | mem size=16M", options=("--watchdog", "1s"))
    result = disk.bench("--rw", "write", "--range", "32K", "--time", "5", "--depth", "4",
                        "--no-inflight", check=False)
    died = disk.events("worker-died")
    t.log(f"{len(died)} deaths, {result['errors']} errors, {result['requests']} requests")
    assert result["errors"] >= 1, result
    assert died and all(e["why"] == "hang" for e in died), died
    first = disk.worker()
    time.sleep(3)  # idle, or busy with other sectors, is no hang
    disk.bench("--rw", "read", "--time", "2")
    t.equal(disk.worker(), first, "the worker")


@limit(60)
def test_deadline(t):
    """Requests that a layer holds for ever end, in the worker or in a process; the event names it."""
    for place in ("in", "process"):
        disk = t.soft_disk(f"delay time=1h ops=write place={place} | mem size=16M", disk=f"vm-{place}",
                           options=("--deadline", "200ms"))
        result = disk.bench("--rw", "write", "--time", "1", "--depth", "4", check=False)
        assert result["errors"] >= 4, result
        late = disk.events("request-late")
        assert late and all("delay" in e["text"] for e in late), late
        disk.bench("--rw", "read", "--time", "200ms")
        t.equal(disk.events("worker-died") + disk.events("extension-died"), [])
        disk.stop()


def shared_memory(pid):
    """The files in memory that a process has open."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("/memfd:"):
                found.add(os.stat(f"/proc/{pid}/fd/{fd}").st_ino)
        except FileNotFoundError:
            pass
    return found


def attack(t, disk, victim):
    """Has a captured worker try all that it should not reach; returns its answers."""
    reply = disk.do_json("captured", "attack", str(victim.worker()))
    t.log(json.dumps(reply, indent=1))
    t.equal([what for what, how in reply.items() if how == "REACHED"], [])
    refused = [what for what, how in reply.items() if str(how).startswith("refused")]
    assert len(refused) > 25, refused
    t.equal((int(reply["directories"]), int(reply["listening-sockets"])), (0, 0))
    with open(f"/proc/{disk.worker()}/limits", encoding="ascii") as file:
        assert re.search("^Max processes +4096 +4096 ", file.read(), re.M), "its limit of tasks"
    users = {int(reply["user"]), os.stat(f"/proc/{victim.worker()}").st_uid, 0}
    t.equal(len(users), 3, "users of two workers and root")
    for kind in ("net", "mnt", "pid", "ipc", "uts"):
        spaces = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (disk.worker(), victim.worker(), "self")}
        t.equal(len(spaces), 3, f"namespaces ({kind}) of two workers and this process")
    return reply


@limit(120)
def test_captured(t):
    """What a worker that was captured can reach: its images, its links, and nothing else."""
    if os.geteuid() != 0:
        t.skip("the whole sandbox needs root")
    captured = t.captive("captured")
    image = t.sparse_file(16 * MIB)
    disk = t.soft_disk(f"{captured} | file path={image}")
    victim = t.soft_disk(f"file path={t.sparse_file(16 * MIB, 'victim.img')}", disk="vm2")
    loads = [Load(t, disk, 600), Load(t, victim, 600)]
    for each in (disk, victim):
        wait_for("a VM", each.attached)
    own, others = (shared_memory(each.worker()) for each in (disk, victim))
    assert own and others, (own, others)
    t.equal(own & others, set(), "memory that both have")
    attack(t, disk, victim)
    for load in loads:
        load.stop(t)
    wait_for("the end of the session", lambda: not disk.attached())
    spare, old = wait_for("a spare", lambda: spare_of(disk)), disk.kill_worker()
    wait_for("another worker", lambda: disk.worker() != old)
    t.equal(disk.worker(), spare, "the worker")
    reply = attack(t, disk, victim)
    t.equal(int(reply["regular-files"]), 3, "regular files: the image, and the log as 1 and 2")


@limit(120)
def test_layer_state(t):
    """What a layer knows survives its worker, an upgrade, and with state= the whole program."""
    options = ("--state", str(t.folder / "state"))
    image = t.sparse_file(64 * MIB)
    disk = t.soft_disk(f"{t.captive('memory')} | file path={image}", options=options)

    def count():
        return disk.do_json("memory", "count")

    last = 0
    for step in ("kill", "upgrade", "kill", "kill"):
        Load(t, disk, 1).judge(t)
        before = int(count()["writes"])
        assert before > last, (before, last)
        saved = struct.pack("<QQ", before, before ^ (1 << 64) - 1)  # as tests/captive/memory.c does it
        wait_for("the count to be saved", lambda what=saved: is_saved(disk.pid, what))
        if step == "kill":
            old = disk.kill_worker()
            wait_for("another worker", lambda was=old: disk.worker() != was)
        else:
            disk.devtap("upgrade", disk.disk)
        disk.worker()
        last = int(count()["loaded"])
        t.equal(last, before, f"writes known after {step}")
    disk.stop()
    disk.restart()
    t.equal(int(count()["loaded"]), last, "writes known to another program")
    t.equal(disk.events("state-refused"), [])


def spare_of(disk):
    """The process of the worker that waits to be the next."""
    for pid in children(disk.pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read().split(b"\0")[1:2] == [b"spare-worker"]:
                    return pid
        except (FileNotFoundError, ProcessLookupError):
            pass
    return None


def has_open(pid, path):
    """Has a process this file open?"""
    return str(path) in [os.path.realpath(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]


@limit(60)
def test_spare(t):
    """The next worker waits with nothing open and takes over; without it all goes on as well."""
    image = t.sparse_file(64 * MIB)
    disk = t.soft_disk(f"file path={image}")
    load = Load(t, disk, 600)

    def taken_over():
        spare = wait_for("a spare", lambda: spare_of(disk))
        time.sleep(0.1)
        t.equal(has_open(spare, image), False, "the spare has the image open")
        old = disk.kill_worker()
        wait_for("another worker", lambda: disk.worker() != old)
        t.equal(disk.worker(), spare, "the worker")
        t.equal(has_open(spare, image), True, "the worker has the image open")

    taken_over()
    # Its death is nobody's; the next worker starts as without one, and then has one again.
    spare = wait_for("a spare", lambda: spare_of(disk))
    os.kill(spare, signal.SIGKILL)
    wait_for("its end", lambda: spare_of(disk) is None)
    old = disk.kill_worker()
    wait_for("another worker", lambda: disk.worker() != old)
    taken_over()
    # It is of the chain as it is, whether this worker changed it or another was needed.
    for layer, parameter in (("delay", "time=100us"), ("trace", f"out={t.folder}/t")):
        disk.devtap("insert", disk.disk, "top", layer, parameter)
        taken_over()
        t.equal(disk.show()["chain"][0]["name"], layer, "the layer on top")
    disk.devtap("upgrade", disk.disk)
    taken_over()
    load.stop(t)
    t.equal([e for e in disk.events() if e["event"] in ("detached", "worker-refused")][:-1], [])
    without = t.soft_disk("mem size=16M", disk="vm2", options=("--spare", "off"))
    time.sleep(0.2)
    t.equal(spare_of(without), None, "a spare")


@limit(1800)
def test_kill_guest(t):
    """A real guest whose QEMU does not reconnect."""
    disk = t.soft_disk(f"delay ops=read,write time=10ms | file path={t.sparse_file(128 * MIB)}")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    recoveries = Recoveries(disk)
    generator = random.Random(2)
    load = VerifiedLoad(guest, jobs=2)
    for number in range(1, GUEST_KILLS + 1):
        load.goes_on()
        time.sleep(generator.uniform(0, 0.2))
        load.check(f"after {number} kills")
        disk.kill_worker()
    load.goes_on()
    recoveries.collect()
    upgrades = Recoveries(disk)
    upgrades.seen = recoveries.seen
    for number in range(1, GUEST_UPGRADES + 1):
        disk.devtap("upgrade", disk.disk)
        load.goes_on()
        load.check(f"after {number} upgrades")
    passes = load.finish()
    t.equal(kernel_errors(guest), "")
    recoveries.report(t)
    t.equal(len(recoveries.all), GUEST_KILLS)
    t.log(f"{GUEST_KILLS} kills")
    t.equal(upgrades.collect(), GUEST_UPGRADES)
    upgrades.report(t)
    t.log(f"{GUEST_UPGRADES} upgrades after these kills; {passes} passes of fio")
    t.equal(len(disk.events("attached")), 1, "connections")


@limit(180)
def test_write_cache_mode(t):
    """A guest that chose to go without flushes gets durable writes, whoever dies and takes over."""
    disk = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}")
    guest = t.guest([Disk(disk.socket, reconnect=1)])

    def show(key):
        return (disk.answer() or {}).get(key)

    def durable():
        front = show("front") or {}
        return front.get("attached") and not front.get("writeback")

    def kill(which):
        before = wait_for("a " + which, lambda: show(which))
        os.kill(before, signal.SIGKILL)
        wait_for("another " + which, lambda: show(which) not in (before, None, 0))
        guest.check("dd if=/dev/zero of=/dev/vda bs=4k count=4 oflag=direct 2>/dev/null")
        wait_for("a VM", disk.attached)
        assert durable(), f"forgotten with the {which}"

    guest.check("echo 'write through' >/sys/block/vda/cache_type")
    wait_for("the guest's choice", durable)
    before = disk.operations("file", "flush")
    for which in ("worker", "keeper", "worker"):
        kill(which)
    disk.devtap("upgrade", disk.disk)
    guest.check("dd if=/dev/zero of=/dev/vda bs=4k count=4 oflag=direct 2>/dev/null")
    assert durable(), "forgotten by an upgrade"
    t.equal(disk.operations("file", "flush"), 0, f"flushes, {before} before")
