"""Extensions in processes of their own under a real guest: killed again and again, and in Python."""

import os
import pathlib
import random
import signal
import time

from devtap_test import paths, wait_for
from devtap_test.case import limit
from devtap_test.load import kernel_errors

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
        --verify_backlog=32 --randseed=$pass >/tmp/fio.log 2>&1 || { cp /tmp/fio.log /tmp/bad; break; }
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
        if name == "ext-host" or words[1:2] not in ([b"keeper"], [b"worker"]):
            found.append(child)
    return found


def kill_extension(disk):
    """Kills the process of the chain's extension, and waits for the next."""
    old = extensions(disk.pid)
    t0 = time.monotonic()
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_for("a new process of the extension",
             lambda: [pid for pid in extensions(disk.pid) if pid not in old], 10.0, 0.002)
    return time.monotonic() - t0


@limit(900)
def test_killed(t):
    """A transforming extension dies under verified load: the guest notices nothing, not even without
    QEMU's reconnect."""
    image = t.sparse_file(64 * MIB)
    ext = pathlib.Path(paths.devtap()).parent.parent / "examples/xor.so"
    disk = t.soft_disk(f"{ext} key=90 place=process tries=1000000 | file path={image}")
    guest = t.guest([disk.socket])
    guest.check("cat >/tmp/load.sh <<'SH'\n" + LOAD + "\nSH\n(sh /tmp/load.sh >/dev/null 2>&1 &)")
    wait_for("the load", lambda: disk.operations("xor", "write") > 20, 60.0)
    generator = random.Random(1)
    longest = 0.0
    for _ in range(KILLS):
        time.sleep(generator.uniform(0, 0.1))
        longest = max(longest, kill_extension(disk))
    before = disk.operations("xor", "write")
    wait_for("the guest's I/O to go on", lambda: disk.operations("xor", "write") > before, 60.0)
    guest.check("touch /tmp/stop")
    wait_for("the last pass of fio", lambda: guest.run("test -e /tmp/done")[0] == 0, 120.0, 0.5)
    t.equal(guest.run("test -e /tmp/bad && cat /tmp/bad"), (1, ""), "fio")
    t.equal(kernel_errors(guest), "")
    t.log(f"{KILLS} kills, {guest.check('cat /tmp/passes')} passes of fio, "
          f"slowest replacement {1000 * longest:.0f} ms")


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
    for how, why, deadline in (("hang", "it hangs", "300ms"), ("leak", "killed by signal 6", "20s")):
        disk = t.soft_disk(f"{poison} sector=8 {how}=on place=process mem-limit=200M "
                           f"deadline={deadline} tries=1000 | mem size=16M", disk=how)
        result = disk.bench("--rw", "write", "--range", "32K", "--time", "8", "--depth", "4",
                            check=False)
        died = [e["text"] for e in disk.events("extension-died")]
        t.log(f"{how}: {len(died)} deaths ({died[0] if died else ''}), {result['errors']} errors, "
              f"{result['requests']} requests")
        assert len(died) >= 2 and all(why in text for text in died), died
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
