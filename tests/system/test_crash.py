"""Workers, keepers and upgrades under verified load: nobody may notice.

DEVTAP_CRASH_KILLS, DEVTAP_CRASH_GUEST_KILLS and DEVTAP_CRASH_UPGRADES say how often (bench/crash has
the full numbers). The load is devtap's own driver, which does not reconnect and does
without the back end's in-flight log, and a real guest whose QEMU does not reconnect.
"""

import json
import os
import random
import re
import signal
import subprocess
import time

from devtap_test import Disk, paths, wait_for
from devtap_test.case import limit
from devtap_test.load import kernel_errors
from devtap_test.softdisk import SoftDisk

MIB = 1 << 20
KILLS = int(os.environ.get("DEVTAP_CRASH_KILLS", "100"))
GUEST_KILLS = int(os.environ.get("DEVTAP_CRASH_GUEST_KILLS", "15"))
UPGRADES = int(os.environ.get("DEVTAP_CRASH_UPGRADES", "10"))
# Of the 99th percentile, where the machine is known to have nothing else to do; pauses are told, not judged, otherwise.
BOUND_MS = float(os.environ.get("DEVTAP_CRASH_PAUSE_MS", "inf"))


def worker(disk):
    """The process id of the worker, once it serves."""
    def ask():
        try:
            return json.loads(disk.devtap("show", "--json", disk.disk)).get("worker")
        except RuntimeError:
            return None
    return wait_for("a worker", ask)


def keeper(disk):
    """The process id of the disk's keeper."""
    return json.loads(disk.devtap("show", "--json", disk.disk))["keeper"]


def events(disk, kind=None):
    """All events so far, or those of one kind."""
    lines = disk.devtap("events", "--json", disk.disk).splitlines()
    return [e for e in map(json.loads, lines) if kind in (None, e["event"])]


class Recoveries:
    """Collects the pauses; the ring of events may be shorter than the test is long."""

    def __init__(self, disk):
        self.disk, self.seen, self.all = disk, 0, []

    def collect(self):
        """Reads what is new; returns how many there are by now."""
        for event in events(self.disk, "recovered"):
            if event["number"] > self.seen:
                self.seen = event["number"]
                self.all.append(event)
        return len(self.all)

    def report(self, t):
        """Prints the figures; returns the p99 of the pause beyond the fence, in ms."""
        def figures(name, values):
            values = sorted(values)
            at = [values[min(len(values) - 1, int(len(values) * p))] for p in (.5, .99)]
            t.log(f"{name}: p50 {at[0]:.1f} ms, p99 {at[1]:.1f} ms, max {values[-1]:.1f} ms")
            return at[1]
        busy = [e for e in self.all if e["rings"]]
        figures("fence", [e["fence_ns"] / 1e6 for e in busy])
        figures("pause", [e["pause_ns"] / 1e6 for e in busy])
        t.log(f"{len(busy)} recoveries, {sum(e['replayed'] for e in busy)} requests run again")
        return figures("pause beyond the fence",
                       [(e["pause_ns"] - e["fence_ns"]) / 1e6 for e in busy])


class Load:
    """devtap bench --verify without in-flight log, in the background."""

    def __init__(self, t, disk, seconds, *options):
        self.out = open(t.folder / "bench.json", "w+", encoding="utf-8")
        self.child = subprocess.Popen(
            [disk.binary(), "bench", "--socket", disk.socket, "--verify", "--json", "--time",
             str(seconds), *options], stdout=self.out, stderr=subprocess.STDOUT)

    def running(self):
        """Is it?"""
        return self.child.poll() is None

    def judge(self, t):
        """Waits for the end: no error, no mismatch, nothing lost or returned twice."""
        self.child.wait()
        self.out.seek(0)
        text = self.out.read()
        t.equal(self.child.returncode, 0, text)
        result = json.loads(text)
        for key in ("errors", "mismatches", "twice", "lost"):
            t.equal(result[key], 0, key)
        assert result["requests"] > 0, text
        return result

    def stop(self, t):
        """Ends it before its time, and judges."""
        self.child.terminate()
        return self.judge(t)


def kill_workers(t, chain, kills, *options, serve=()):
    """Kills the worker at random moments of a load that does not reconnect."""
    disk = t.soft_disk(chain, options=serve)
    recoveries = Recoveries(disk)
    generator = random.Random(1)
    killed = 0
    while killed < kills:
        load = Load(t, disk, 12, "--no-inflight", *options)
        time.sleep(0.3)
        end = time.monotonic() + 11
        while time.monotonic() < end and killed < kills and load.running():
            os.kill(worker(disk), signal.SIGKILL)
            killed += 1
            time.sleep(generator.uniform(0.02, 0.25))
        load.judge(t)
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
    for child in descendants(worker(disk)):
        try:
            with open(f"/proc/{child}/comm", encoding="ascii") as file:
                if file.read().strip() == "ext-host":
                    return child
        except (FileNotFoundError, ProcessLookupError):
            pass
    return None


def descendants(pid):
    """All processes that descend from one."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found + [each for child in found for each in descendants(child)]


@limit(3600)
def test_kill_extension(t):
    """The process of an extension that sees all data dies; nobody but the events tells."""
    xor = os.path.join(os.path.dirname(os.path.dirname(SoftDisk.binary())), "examples/xor.so")
    disk = t.soft_disk(f"{xor} key=90 place=process tries=1000000 | mem size=64M")
    generator = random.Random(3)
    pauses, seen, killed, kills = [], 0, 0, max(20, KILLS // 3 if KILLS < 1000 else KILLS)
    while killed < kills:
        load = Load(t, disk, 12, "--no-inflight")
        time.sleep(0.3)
        end = time.monotonic() + 11
        while time.monotonic() < end and killed < kills and load.running():
            victim = wait_for("a process", lambda: extension_of(disk))
            os.kill(victim, signal.SIGKILL)
            killed += 1
            time.sleep(generator.uniform(0.1, 0.2))
        load.judge(t)
        for event in events(disk, "extension-restarted"):
            if event["number"] > seen:
                seen = event["number"]
                pauses.append(float(re.match(r"after ([0-9.]+) ms", event["text"])[1]))
    t.equal(events(disk, "worker-died"), [])
    pauses.sort()
    p50, p99 = (pauses[min(len(pauses) - 1, int(len(pauses) * p))] for p in (.5, .99))
    t.log(f"{killed} kills, {len(pauses)} restarts told")
    t.log(f"pause: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {pauses[-1]:.1f} ms")
    assert len(pauses) > killed // 2, f"{len(pauses)} restarts after {killed} kills"
    assert p99 < BOUND_MS, f"p99 of the pause is {p99:.1f} ms"


@limit(600)
def test_kill_keeper(t):
    """The VMM sees its connection end; it comes back, and nothing is lost."""
    disk = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}")
    load = Load(t, disk, 500, "--reconnect")

    def attached():
        try:
            return json.loads(disk.devtap("show", "--json", disk.disk))["front"]["attached"]
        except RuntimeError:
            return False

    for kills in range(5):
        wait_for("the load's connection", attached, 60)
        time.sleep(0.3)
        os.kill(json.loads(disk.devtap("show", "--json", disk.disk))["keeper"], signal.SIGKILL)
        wait_for("its end", lambda n=kills: len(events(disk, "keeper-died")) == n + 1, 60)
    wait_for("the load's connection", attached, 60)
    result = load.stop(t)
    t.equal(result["reconnects"], 5, "reconnects")
    t.equal(len(events(disk, "keeper-died")), 5)


@limit(3600)
def test_upgrade(t):
    """Another binary takes over under load; one that cannot is refused, and the old one serves."""
    disk = t.soft_disk(f"file path={t.sparse_file(128 * MIB)}")
    copy = t.folder / "devtap-next"
    subprocess.run(["cp", disk.binary(), copy], check=True)
    load = Load(t, disk, 12, "--no-inflight")
    time.sleep(0.5)
    recoveries = Recoveries(disk)
    for _ in range(UPGRADES // 2):
        if not load.running():
            load.judge(t)
            load = Load(t, disk, 12, "--no-inflight")
        disk.devtap("upgrade", disk.disk, "--binary", str(copy))
        t.equal(os.readlink(f"/proc/{worker(disk)}/exe"), str(copy))
        t.equal(os.readlink(f"/proc/{keeper(disk)}/exe"), str(copy))
        disk.devtap("upgrade", disk.disk)
        recoveries.collect()
        time.sleep(0.2)
    t.equal(os.readlink(f"/proc/{keeper(disk)}/exe"), disk.binary())
    load.judge(t)
    recoveries.collect()
    recoveries.report(t)
    # One between two loads has no ring to recover; that it was done, the verb has said.
    assert len(recoveries.all) > UPGRADES // 2, f"{len(recoveries.all)} recoveries"
    t.equal(sum(e["replayed"] for e in recoveries.all), 0, "requests run again by upgrades")
    t.equal(events(disk, "session-broken"), [])


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
    load = Load(t, disk, 6, "--no-inflight")
    time.sleep(0.5)
    before = keeper(disk)
    for binary, reason, serves_on in (
            ("/bin/false", "a keeper of the new program cannot take over", True),
            (half_a_program(t, disk, "worker"), "a keeper of the new program cannot take over", True),
            (half_a_program(t, disk, "keeper"), "one of the program before takes over again", False)):
        old = worker(disk)
        try:
            disk.devtap("upgrade", disk.disk, "--binary", str(binary))
            raise AssertionError(f"{binary} was taken")
        except RuntimeError as error:
            assert reason in str(error), error
        t.equal(worker(disk) == old, serves_on, f"the worker serves on after {binary}")
        t.equal(keeper(disk), before, f"the keeper after {binary}")
        time.sleep(0.5)
    load.judge(t)
    t.equal(len(events(disk, "upgrade-refused")), 3)
    t.equal([e for e in events(disk) if e["event"] in ("detached", "keeper-died")][:-1], [])


def compile_extension(t, name):
    """Builds tests/captive/NAME.c as a user would."""
    out = t.folder / f"{name}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", f"-I{paths.SOURCE}/include", "-o", out,
                    paths.SOURCE / f"tests/captive/{name}.c"], check=True)
    return out


@limit(120)
def test_poison(t):
    """A request that kills its layer fails after two crashes; the others are served."""
    poison = compile_extension(t, "poison")
    disk = t.soft_disk(f"{poison} sector=8 | mem size=16M")
    load = subprocess.run([disk.binary(), "bench", "--socket", disk.socket, "--rw", "write",
                           "--range", "1M", "--time", "2", "--depth", "4", "--no-inflight", "--json"],
                          stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    result = json.loads(load.stdout)
    assert result["errors"] >= 1, result
    died = events(disk, "worker-died")
    assert died and all(e["why"] == "assertion" for e in died), died
    assert result["requests"] > 10 * result["errors"], result
    t.log(f"{len(died)} deaths, {result['errors']} errors, {result['requests']} requests")


@limit(120)
def test_hang(t):
    """A request that hangs its layer is noticed, and fails after two workers; the others are served."""
    poison = compile_extension(t, "poison")
    disk = t.soft_disk(f"{poison} sector=8 hang=on | mem size=16M", options=("--watchdog", "1s"))
    load = subprocess.run([disk.binary(), "bench", "--socket", disk.socket, "--rw", "write",
                           "--range", "32K", "--time", "5", "--depth", "4", "--no-inflight", "--json"],
                          stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    result = json.loads(load.stdout)
    died = events(disk, "worker-died")
    t.log(f"{len(died)} deaths, {result['errors']} errors, {result['requests']} requests")
    assert result["errors"] >= 1, result
    assert died and all(e["why"] == "hang" for e in died), died
    first = worker(disk)
    time.sleep(3)  # idle, or busy with other sectors, is no hang
    subprocess.run([disk.binary(), "bench", "--socket", disk.socket, "--rw", "read", "--time", "2"],
                   stdout=subprocess.DEVNULL, check=True)
    t.equal(worker(disk), first, "the worker")


@limit(60)
def test_deadline(t):
    """Requests that a layer holds for ever end, in the worker or in a process; the event names it."""
    for place in ("in", "process"):
        disk = t.soft_disk(f"delay time=1h ops=write place={place} | mem size=16M", disk=f"vm-{place}",
                           options=("--deadline", "200ms"))
        load = subprocess.run([disk.binary(), "bench", "--socket", disk.socket, "--rw", "write",
                               "--time", "1", "--depth", "4", "--json"], stdout=subprocess.PIPE,
                              text=True, timeout=40, check=False)
        result = json.loads(load.stdout)
        assert result["errors"] >= 4, result
        late = events(disk, "request-late")
        assert late and all("delay" in e["text"] for e in late), late
        subprocess.run([disk.binary(), "bench", "--socket", disk.socket, "--rw", "read", "--time",
                        "200ms"], stdout=subprocess.DEVNULL, check=True)
        t.equal(events(disk, "worker-died") + events(disk, "extension-died"), [])
        disk.stop()


@limit(60)
def test_weight(t):
    """A worker in a control group of its own, or a line that says why it is not; it serves either way."""
    disk = t.soft_disk("mem size=16M", options=("--weight", "200"))
    Load(t, disk, 1, "--no-inflight").judge(t)
    not_set = events(disk, "weight-not-set")
    with open(f"/proc/{worker(disk)}/cgroup", encoding="ascii") as file:
        groups = file.read()
    t.equal("devtap-worker-" in groups, not not_set, groups)
    for event in not_set:
        assert event["text"].startswith("the worker has no weight of its own: control group /"), event
        t.log(event["text"])


@limit(120)
def test_captured(t):
    """What a worker that was captured can reach: its images, its links, and nothing else."""
    if os.geteuid() != 0:
        t.skip("the whole sandbox needs root")
    captured = compile_extension(t, "captured")
    image = t.sparse_file(16 * MIB)
    disk = t.soft_disk(f"{captured} | file path={image}")
    victim = t.soft_disk(f"file path={t.sparse_file(16 * MIB, 'victim.img')}", disk="vm2")
    reply = json.loads(disk.devtap("do", "--json", disk.disk, "captured", "attack", str(worker(victim))))
    t.log(json.dumps(reply, indent=1))
    reached = [what for what, how in reply.items() if how == "REACHED"]
    t.equal(reached, [])
    refused = [what for what, how in reply.items() if str(how).startswith("refused")]
    assert len(refused) > 25, refused
    t.equal((int(reply["directories"]), int(reply["listening-sockets"])), (0, 0))
    t.equal(int(reply["regular-files"]), 3, "regular files: the image, and the log as 1 and 2")
    users = {int(reply["user"]), os.stat(f"/proc/{worker(victim)}").st_uid, 0}
    t.equal(len(users), 3, "users of two workers and root")


@limit(120)
def test_layer_state(t):
    """What a layer knows survives its worker, an upgrade, and with state= the whole program."""
    options = ("--state", str(t.folder / "state"))
    image = t.sparse_file(64 * MIB)
    disk = t.soft_disk(f"{compile_extension(t, 'memory')} | file path={image}", options=options)

    def count():
        return json.loads(disk.devtap("do", "--json", disk.disk, "memory", "count"))

    last = 0
    for step in ("kill", "upgrade", "kill", "kill"):
        Load(t, disk, 1, "--no-inflight").judge(t)
        time.sleep(0.3)  # more than the time within which changes are kept
        before = int(count()["writes"])
        assert before > last, (before, last)
        if step == "kill":
            os.kill(worker(disk), signal.SIGKILL)
            time.sleep(0.2)
        else:
            disk.devtap("upgrade", disk.disk)
        worker(disk)
        last = int(count()["loaded"])
        t.equal(last, before, f"writes known after {step}")
    disk.stop()
    disk.restart()
    t.equal(int(count()["loaded"]), last, "writes known to another program")
    t.equal(events(disk, "state-refused"), [])


# Passes of fio in the guest, each of which writes and verifies an area.
LOAD = """
pass=0
while [ ! -e /tmp/stop ]; do
    pass=$((pass + 1))
    fio --name=v --filename=/dev/vda --ioengine=libaio --direct=1 --rw=randwrite \\
        --bsrange=4k-32k --iodepth=16 --numjobs=2 --size=8m --offset_increment=8m \\
        --verify=crc32c --verify_fatal=1 --verify_backlog=32 --randseed=$pass \\
        --group_reporting >/tmp/fio.log 2>&1 || { cp /tmp/fio.log /tmp/bad; break; }
    echo $pass >/tmp/passes
done
echo done >/tmp/done
"""


@limit(1800)
def test_kill_guest(t):
    """A real guest whose QEMU does not reconnect."""
    disk = t.soft_disk(f"delay ops=read,write time=10ms | file path={t.sparse_file(128 * MIB)}")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    recoveries = Recoveries(disk)
    generator = random.Random(2)
    guest.check(f"cat >/tmp/load.sh <<'SH'\n{LOAD}\nSH\n(sh /tmp/load.sh >/dev/null 2>&1 &)")

    def requests():
        fields = guest.check("cat /sys/block/vda/stat").split()
        return int(fields[0]) + int(fields[4])

    for number in range(1, GUEST_KILLS + 1):
        before = requests()
        wait_for("the guest's I/O to go on", lambda seen=before: requests() > seen + 20, 60.0)
        time.sleep(generator.uniform(0, 0.2))
        t.equal(guest.run("test -e /tmp/bad && cat /tmp/bad"), (1, ""), f"fio after {number} kills")
        os.kill(worker(disk), signal.SIGKILL)
    guest.check("touch /tmp/stop")
    wait_for("the last pass of fio", lambda: guest.run("test -e /tmp/done")[0] == 0, 120.0, 0.5)
    t.equal(guest.run("test -e /tmp/bad && cat /tmp/bad"), (1, ""), "fio at the end")
    t.equal(kernel_errors(guest), "")
    recoveries.collect()
    recoveries.report(t)
    t.equal(len(recoveries.all), GUEST_KILLS)
    t.equal(len(events(disk, "attached")), 1, "connections")
    t.log(f"{GUEST_KILLS} kills, {guest.check('cat /tmp/passes')} passes of fio")


@limit(180)
def test_write_cache_mode(t):
    """A guest that chose to go without flushes gets durable writes, whoever dies and takes over."""
    disk = t.soft_disk(f"file path={t.sparse_file(64 * MIB)}")
    guest = t.guest([Disk(disk.socket, reconnect=1)])

    def show(key):
        try:
            return json.loads(disk.devtap("show", "--json", disk.disk))[key]
        except RuntimeError:
            return None  # there is no worker just now

    def durable():
        front = show("front") or {}
        return front.get("attached") and not front.get("writeback")

    def kill(which):
        before = wait_for("a " + which, lambda: show(which))
        os.kill(before, signal.SIGKILL)
        wait_for("another " + which, lambda: show(which) not in (before, None, 0))
        guest.check("dd if=/dev/zero of=/dev/vda bs=4k count=4 oflag=direct 2>/dev/null", 30.0)
        wait_for("a VM", lambda: (show("front") or {}).get("attached"))
        assert durable(), f"forgotten with the {which}"

    guest.check("echo 'write through' >/sys/block/vda/cache_type")
    wait_for("the guest's choice", durable)
    before = disk.operations("file", "flush")
    for which in ("worker", "keeper", "worker"):
        kill(which)
    disk.devtap("upgrade", disk.disk)
    guest.check("dd if=/dev/zero of=/dev/vda bs=4k count=4 oflag=direct 2>/dev/null", 30.0)
    assert durable(), "forgotten by an upgrade"
    t.equal(disk.operations("file", "flush"), 0, f"flushes, {before} before")


def kill_points():
    """The names of all points that the source plants."""
    found = set()
    for folder in ("blk", "core", "vhost", "tools", "control"):
        for path in (paths.SOURCE / folder).rglob("*.c"):
            found |= set(re.findall(r'KILL_POINT\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    return sorted(found)


# State is saved at the start, too: the floor.
STARTING = ("fenced", "begin", "floor", "attach", "ring-start", "ring-started", "state-saved",
            "state-filled")
ENDING = ("ring-stop", "ring-stopped", "detach", "end")
FLOWING = ("taken", "forwarded", "completed", "pushed", "published")


def upgrade_soon(disk):
    """An upgrade, once the worker that may just be starting is there."""
    def ask():
        try:
            disk.devtap("upgrade", disk.disk)
        except RuntimeError as error:
            if "under way" not in str(error):
                raise
            return False
        return True
    wait_for("an upgrade", ask)


def at_point(t, memory, name, count, folder):
    """Serves a load while two workers die at one point, one after the other."""
    image = folder / "disk.img"
    with open(image, "wb") as file:
        file.truncate(64 * MIB)
    environment = dict(os.environ, DEVTAP_KILL=f"{name}:{count}:2:{int(name in STARTING)}")
    old = dict(os.environ)
    os.environ.update(environment)
    try:
        disk = t.use(SoftDisk(f"{memory} | file path={image}", folder))
    finally:
        os.environ.clear()
        os.environ.update(old)
    load = Load(t, disk, 1, "--no-inflight")
    time.sleep(0.3)
    if name in STARTING:
        os.kill(worker(disk), signal.SIGKILL)
    elif name in ENDING:
        upgrade_soon(disk)
        upgrade_soon(disk)
    load.judge(t)
    end = time.monotonic() + 30
    while name in FLOWING and len(events(disk, "worker-died")) < 2 and time.monotonic() < end:
        Load(t, disk, 1, "--no-inflight").judge(t)
    died = events(disk, "worker-died")
    upgraded = events(disk, "upgraded")
    disk.stop()
    return len(died), len(upgraded)


# What became of the keeper that died, or was to be replaced by one that did.
KEEPER_POINTS = {"keeper-send": "old", "keeper-sent": "old", "keeper-take": "new", "keeper-taken": "new"}


def at_keeper_point(t, name, folder):
    """Keepers die at one point of an upgrade; the next upgrade works."""
    dies = KEEPER_POINTS[name]
    os.environ["DEVTAP_KILL"] = f"{name}:1:{2 if dies == 'new' else 1}:{int(dies == 'new')}"
    try:
        disk = t.use(SoftDisk(f"file path={folder}/disk.img create=on size=64M", folder))
    finally:
        del os.environ["DEVTAP_KILL"]
    load = Load(t, disk, 4, "--no-inflight" if dies == "new" else "--reconnect")
    time.sleep(0.3)
    refused = 2 if dies == "new" else 1
    for _ in range(refused):
        try:
            disk.devtap("upgrade", disk.disk)
            raise AssertionError(f"{name}: the upgrade was not refused")
        except RuntimeError as error:
            assert "a keeper of the new program cannot take over" in str(error), error
        worker(disk)
    upgrade_soon(disk)
    result = load.judge(t)
    t.equal(len(events(disk, "upgrade-refused")), refused)
    t.equal(len(events(disk, "upgraded")), 1)
    t.equal(len(events(disk, "keeper-died")), int(dies == "old"))
    t.equal(result.get("reconnects", 0) > 0, dies == "old", "the VM's connection ended")
    disk.stop()


@limit(900)
def test_kill_points(t):
    """Workers die at each point where dying matters; needs a build with -Dkill_points=true."""
    probe = subprocess.run(["grep", "-c", "ring-started", SoftDisk.binary()], stdout=subprocess.PIPE,
                           text=True, check=False)
    if probe.stdout.strip() in ("", "0"):
        t.skip("built without -Dkill_points=true")
    unreached = []
    memory = compile_extension(t, "memory")
    for name in KEEPER_POINTS:
        (t.folder / name).mkdir()
        at_keeper_point(t, name, t.folder / name)
    for name in sorted(set(kill_points()) - set(KEEPER_POINTS)):
        for count in (1, 50):
            if count > 1 and name not in FLOWING:
                continue
            folder = t.folder / f"{name}-{count}"
            folder.mkdir()
            died, upgraded = at_point(t, memory, name, count, folder)
            t.log(f"{name}:{count}: {died} deaths, {upgraded} upgrades")
            if died < 2 + (name in STARTING) and name not in ENDING:
                unreached.append(name)
    t.equal(unreached, [])
