"""Extensions in processes of their own under a real guest: killed again and again, and in Python."""

import itertools
import json
import os
import pathlib
import random
import signal
import time

from devtap_test import paths, wait_for
from devtap_test.case import limit
from devtap_test.load import kernel_errors, percentiles
from devtap_test.process import PATIENCE

MIB = 1 << 20
KILLS = int(os.environ.get("DEVTAP_KILLS", "100"))
ROOT = pathlib.Path(__file__).resolve().parents[2]

# Writes and verifies an area until told to stop.
LOAD = """
pass=0
while [ ! -e /tmp/stop ]; do
    pass=$((pass + 1))
    fio --name=v --filename=/dev/vda --ioengine=libaio --direct=1 --rw=randwrite \\
        --bsrange=4k-64k --iodepth=16 --size=16m --verify=crc32c --verify_fatal=1 \\
        --verify_backlog=32 --randseed=$pass --numjobs=@JOBS@ --offset_increment=16m \\
        --cpus_allowed=0-$((@JOBS@ - 1)) --cpus_allowed_policy=split >/tmp/fio.log 2>&1 || { cp /tmp/fio.log /tmp/bad; break; }
    echo $pass >/tmp/passes
done
echo done >/tmp/done
"""


def children(pid):
    """The processes that a process started and that still are."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def extensions(pid):
    """The processes of extensions among all that descend from a process."""
    found = []
    for child in children(pid):
        try:
            words = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            name = pathlib.Path(f"/proc/{child}/comm").read_text(encoding="ascii").strip()
            found += extensions(child)
        except (FileNotFoundError, ProcessLookupError):
            continue
        # A hosted extension is forked from the launcher, and has its words but not its name.
        if name == "ext-host" or words[1:2] not in ([b"keeper"], [b"worker"], [b"spare-worker"]):
            found.append(child)
    return found


def kill_extension(disk):
    """Kills the process of the chain's extension, and waits for the next."""
    old = extensions(disk.pid)
    t0 = time.monotonic()
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_for("a new process of the extension",
             lambda: [pid for pid in extensions(disk.pid) if pid not in old], interval=0.002)
    return time.monotonic() - t0


def killed(t, kills, jobs=1, options=(), settings="", extra=(), between=None):
    """A transforming extension dies under verified load, `jobs` of it: the guest notices nothing, not even
    without QEMU's reconnect. `between`(guest) is done after each death."""
    image = t.sparse_file(64 * MIB)
    ext = pathlib.Path(paths.devtap()).parent.parent / "examples/xor.so"
    disk = t.soft_disk(f"{ext} key=90 place=process tries=1000000 {settings} | file path={image}", options=options)
    guest = t.guest([disk.socket], queues=jobs, smp=jobs, extra=extra)
    load = LOAD.replace("@JOBS@", str(jobs))
    guest.check("cat >/tmp/load.sh <<'SH'\n" + load + "\nSH\n(sh /tmp/load.sh >/dev/null 2>&1 &)")
    wait_for("the load", lambda: disk.operations("xor", "write") > 20)
    generator = random.Random(1)
    longest = 0.0
    for _ in range(kills):
        time.sleep(generator.uniform(0, 0.1))
        longest = max(longest, kill_extension(disk))
        if between:
            between(guest)
    before = disk.operations("xor", "write")
    wait_for("the guest's I/O to go on", lambda: disk.operations("xor", "write") > before)
    guest.check("touch /tmp/stop")
    wait_for("the last pass of fio", lambda: guest.run("test -e /tmp/done")[0] == 0, 5 * PATIENCE, 0.5)
    t.equal(guest.run("test -e /tmp/bad && cat /tmp/bad"), (1, ""), "fio")
    t.equal(kernel_errors(guest), "")
    percentiles(t, "pause", [e["pause_ns"] / 1e6 for e in disk.events("extension-restarted")])
    t.log(f"{kills} kills, {guest.check('cat /tmp/passes')} passes of fio, "
          f"slowest replacement {1000 * longest:.0f} ms")
    return disk


@limit(900)
def test_killed(t):
    """On one thread."""
    killed(t, KILLS)


@limit(300)
def test_killed_threads(t):
    """One process for two threads, which have requests on both."""
    disk = killed(t, KILLS // 4, jobs=2, options=["--threads", "2", "--threads-per-disk", "2"])
    (pid,) = extensions(disk.pid)
    names = [task.read_text().strip() for task in pathlib.Path(f"/proc/{pid}/task").glob("*/comm")]
    t.equal(sorted(name for name in names if name[-1].isdigit()), ["ext-host0", "ext-host1"])
    assert disk.events("extension-restarted"), "no event of a restart"


def deleted(guest, device):
    """Has the guest let go of a device?"""
    guest.qmp.command("query-status")
    return any(event["event"] == "DEVICE_DELETED" and event["data"].get("device") == device
               for event in guest.qmp.events)


@limit(300)
def test_trusted(t):
    """One that is trusted with the guest's memory, whose slots come and go under load: no copy, no difference."""
    numbers = itertools.count()

    def blocks(guest):
        return int(guest.check("ls -d /sys/devices/system/memory/memory* | wc -l"))

    def plug(guest):
        before = blocks(guest)
        name = f"more{next(numbers)}"
        guest.qmp.command("object-add", qom_type="memory-backend-memfd", id=name, size=128 * MIB, share=True)
        guest.qmp.command("device_add", driver="pc-dimm", id=f"dimm-{name}", memdev=name)
        wait_for("the guest to have the memory", lambda: blocks(guest) > before)  # else it would miss that it goes
        guest.qmp.command("device_del", id=f"dimm-{name}")
        wait_for("the guest to give the memory back", lambda: deleted(guest, f"dimm-{name}"), interval=0.1)
        guest.qmp.command("object-del", id=name)

    disk = killed(t, 5, settings="trust=memory", extra=["-m", "size=512M,slots=4,maxmem=2G"], between=plug)
    assert "trust=memory" in disk.devtap("show", disk.disk), disk.devtap("show", disk.disk)
    grants = [e["text"] for e in disk.events("memory-granted")]
    t.log(f"{len(grants)} grants; {grants[-1]}")
    assert any("640 MiB" in text for text in grants) and "512 MiB" in grants[-1], grants


def python_disk(t, settings):
    """A disk with the fault injector of examples/ above a file."""
    build = pathlib.Path(paths.devtap()).parent.parent
    os.environ["PYTHONPATH"] = str(ROOT / "python")
    os.environ["DEVTAP_CHANNEL_LIBRARY"] = str(build / "channel/libdevtap-channel.so")
    image = t.sparse_file(64 * MIB)
    return t.soft_disk(f"{ROOT}/examples/fault.py {settings} | file path={image}")


def test_python(t):
    """The fault injector of examples/ fails what it is told to, and counts it; live."""
    disk = python_disk(t, "rate=0% ops=read seed=7")
    guest = t.guest([disk.socket])
    read = "dd if=/dev/vda of=/dev/null bs=4k count=50 iflag=direct"
    guest.check("dd if=/dev/zero of=/dev/vda bs=4k count=50 oflag=direct; " + read)
    disk.set("fault", rate="100%")
    status, output = guest.run(read)
    assert status != 0 and "Input/output error" in output, output
    assert disk.stats()["fault"]["counters"]["faults"] > 0
    guest.check("dd if=/dev/zero of=/dev/vda bs=4k count=50 oflag=direct")
    disk.set("fault", rate="0%")
    guest.check(read)
    kill_extension(disk)
    guest.check(read)


@limit(120)
def test_hang_and_leak(t):
    """An extension that hangs, or takes memory without end, is ended by its limits and started again; the
    request that does it fails alone, and nobody else notices."""
    poison = t.captive("poison")
    for how, why, deadline in (("hang", "it hangs", "1s"), ("leak", "killed by signal 6", "120s")):
        disk = t.soft_disk(f"{poison} sector=8 {how}=on place=process mem-limit=200M "
                           f"deadline={deadline} tries=1000 | mem size=16M", disk=how)
        result = disk.bench("--rw", "write", "--range", "32K", "--time", "8", "--depth", "4",
                            "--min-requests", "20", check=False)
        died = [e["text"] for e in disk.events("extension-died")]
        t.log(f"{how}: {len(died)} deaths ({died[0] if died else ''}), {result['errors']} errors, "
              f"{result['requests']} requests")
        assert len(died) >= 2 and all(why in text for text in died), died
        t.equal({e["why"] for e in disk.events("extension-died")},
                {"stopped" if how == "hang" else "signal"})
        # More than were in flight at once: the intake went on.
        assert result["errors"] >= 1 and result["latency"]["samples"] > 4, result
        disk.bench("--rw", "read", "--time", "200ms")
        assert disk.events("request-failed"), disk.events()
        t.equal(disk.events("worker-died"), [])
        disk.stop()


@limit(60)
def test_events(t):
    """What an extension reports from its process is an event of the disk."""
    watchpoint = pathlib.Path(paths.devtap()).resolve().parents[1] / "examples/watchpoint.so"
    disk = t.soft_disk(f"{watchpoint} start=0 count=8 place=process | null size=1M")
    disk.bench("--rw", "write", "--time", "200ms")
    seen = disk.events("watchpoint")
    assert seen and all(e["device"] == disk.disk for e in seen), disk.events()
    assert seen[0]["text"].startswith("write of "), seen[0]
