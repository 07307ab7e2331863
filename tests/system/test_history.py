"""What a disk was: moments beside the live VM, the log of a sector, bisection down to one write."""

import json
import os
import random
import signal
import subprocess
import time

from devtap_test import SoftDisk, paths, wait_for
from devtap_test.case import limit
from devtap_test.load import kernel_errors
from devtap_test.pool import PoolProcess, binary, check, cvd

MIB = 1 << 20


def make(t, size="1G"):
    pool = t.folder / "pool"
    cvd("pool", "create", pool, "--size", size)
    cvd("create", f"{pool}/vm", "--size", "64M")
    return pool


def fill(t, pool, seed, mib=4, mark=None):
    """Replaces the disk's contents by noise, with a text in it; returns them."""
    data = bytearray(random.Random(seed).randbytes(mib * MIB))
    if mark:
        data[2 * MIB:2 * MIB + len(mark)] = mark
    (t.folder / "image").write_bytes(data)
    cvd("fill", f"{pool}/vm", t.folder / "image")
    return bytes(data)


def history(pool):
    return json.loads(cvd("history", f"{pool}/vm", "--json"))


def exported(t, pool, moment):
    """What the disk was, without the zeroes at its end."""
    path = t.folder / "copy"
    cvd("export", f"{pool}/vm@{{{moment}}}", path)
    data = path.read_bytes()
    path.unlink()
    t.equal(len(data), 64 * MIB)
    return data.rstrip(b"\0")


def bisect(pool, first, last, *probe, status=0):
    done = subprocess.run([binary(), "bisect", f"{pool}/vm@{first}", f"@{last}", "--json", "--",
                           *map(str, probe)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == status, f"{done.returncode}: {done.stderr}"
    return json.loads(done.stdout) if status == 0 else done.stderr


@limit(60)
def test_moments(t):
    """Writes and times name states; off gives the space back; what is asked wrongly has its line."""
    pool = make(t)
    assert "no history" in cvd("export", f"{pool}/vm@{{-1s}}", t.folder / "x", status=3)
    cvd("history", f"{pool}/vm", "1h")
    contents, when, number = [], [], []
    for seed in range(3):
        contents.append(fill(t, pool, seed).rstrip(b"\0"))
        number.append(history(pool)["last"])
        when.append(time.time())
        time.sleep(0.2)
    for i in range(3):
        assert exported(t, pool, f"write {number[i]}") == contents[i], f"write {number[i]}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when[i])) + f"{when[i] % 1:.6f}"[1:]
        assert exported(t, pool, stamp) == contents[i], stamp
    ranges = json.loads(cvd("diff", f"{pool}/vm@{{write {number[1]}}}", "--from",
                            f"@{{write {number[0]}}}", "--json"))
    t.equal(sum(r["length"] for r in ranges), 4 * MIB)
    t.equal(json.loads(cvd("diff", f"{pool}/vm", "--from", f"@{{write {number[2]}}}", "--json")), [])
    held = [row["held"] for row in json.loads(cvd("du", f"{pool}/vm", "--json"))
            if row["name"] == "vm@{history}"]
    assert len(held) == 1 and held[0] >= 8 * MIB - 65536, held
    rows = json.loads(cvd("log", f"{pool}/vm", "--sector", 8 * 100, "--json"))
    rows = [r for r in rows if "write" in r]
    t.equal([r["owner"] for r in rows], ["cvd"] * len(rows))
    assert len(rows) == 5, rows  # three times written, twice made zero before that
    for row in rows:
        assert row["offset"] <= 100 * 4096 < row["offset"] + row["length"], row
    for moment, status in (("write 99999", 3), ("2001-01-01T00:00:00", 3), ("soon", 2), ("-1y", 2)):
        cvd("export", f"{pool}/vm@{{{moment}}}", t.folder / "x", status=status)
    cvd("dup", f"{pool}/vm@{{write {number[0]}}}", "clone", status=2)
    cvd("snap", f"{pool}/vm", "--name", "s")
    cvd("delete", f"{pool}/vm@s")  # hidden, as long as the history needs it
    t.equal(json.loads(cvd("snaps", f"{pool}/vm", "--json")), [])
    assert exported(t, pool, f"write {number[0]}") == contents[0]
    check(pool)
    cvd("history", f"{pool}/vm", "off")
    assert "no history" in cvd("export", f"{pool}/vm@{{write {number[0]}}}", t.folder / "x", status=3)
    info = json.loads(cvd("pool", "info", pool, "--json"))
    assert info["used"] - info["journal"] < 5 * MIB, info
    t.equal(check(pool)["blocks"], 4 * MIB // 4096)


@limit(60)
def test_beside_the_live(t):
    """A past state is mounted and copied while a VM writes, and its server is killed meanwhile."""
    pool = make(t)
    process = t.use(PoolProcess(pool, t.folder))
    cvd("history", f"{pool}/vm", "1h")
    content = fill(t, pool, 1).rstrip(b"\0")
    number = history(pool)["last"]
    disk = t.soft_disk(f"cvd pool={pool} name=vm", disk="writer")
    load = subprocess.Popen([SoftDisk.binary(), "bench", "--socket", disk.socket, "--verify",
                             "--json", "--sleep", "--no-inflight", "--depth", "8", "--time", "600"],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for("writes", lambda: history(pool)["last"] > number + 100)
    past = t.soft_disk(f"cvd pool={pool} name='vm@{{write {number}}}' read-only=on", disk="past")
    for turn in range(3):
        assert exported(t, pool, f"write {number}") == content, f"turn {turn}"
        os.kill(process.worker(), signal.SIGKILL)
    copied = subprocess.run([SoftDisk.binary(), "bench", "--socket", past.socket, "--rw", "read",
                             "--time", "300ms", "--json"], capture_output=True, text=True,
                            timeout=120, check=True)
    t.equal(json.loads(copied.stdout)["errors"], 0)
    assert "in use" in cvd("history", f"{pool}/vm", "off", status=4)
    try:
        t.soft_disk(f"cvd pool={pool} name='vm@{{-1s}}' read-only=on", disk="relative")
        assert False, "it would be another moment after each restart"
    except RuntimeError as error:
        assert "another moment" in str(error), error
    load.terminate()
    out = load.communicate(timeout=120)[0]
    result = json.loads(out)
    t.equal((load.returncode, result["errors"], result["mismatches"], result["lost"]), (0, 0, 0, 0))
    assert any(row["owner"] == "writer" for row in json.loads(cvd("log", f"{pool}/vm", "--json"))), \
        "the log does not say who wrote"
    disk.stop()
    past.stop()
    cvd("history", f"{pool}/vm", "off")
    process.stop()
    check(pool)


@limit(60)
def test_bisect_marker(t):
    """The write that brought a text, by snapshots and then by writes, served and not."""
    pool = make(t)
    fill(t, pool, 1)
    cvd("snap", f"{pool}/vm", "--name", "before")
    cvd("history", f"{pool}/vm", "1h")
    for seed in range(2, 8):
        fill(t, pool, seed, mark=b"SPOILT" if seed >= 5 else None)
        cvd("snap", f"{pool}/vm", "--name", f"s{seed}")
    probe = t.folder / "probe"
    probe.write_text("#!/bin/sh\nnbdcopy \"$CVD_URI\" - | grep -q SPOILT && exit 1\nexit 0\n")
    probe.chmod(0o755)
    for served in (False, True):
        if served:
            process = t.use(PoolProcess(pool, t.folder))
        found = bisect(pool, "before", "s7", probe)
        t.equal(found["owner"], "cvd")
        begin = found["ranges"][0]["offset"]
        assert begin <= 2 * MIB < begin + found["ranges"][0]["length"], found
        good, bad = (exported(t, pool, f"write {found['write'] - 1 + i}") for i in (0, 1))
        assert b"SPOILT" not in good and b"SPOILT" in bad, found
        # A later begin, by moments.
        again = bisect(pool, f"{{write {found['write'] - 3}}}", f"{{write {found['write'] + 2}}}", probe)
        t.equal(again["write"], found["write"])
    assert "fails at vm@s6 already" in bisect(pool, "s6", "s7", probe, status=2)
    assert "does not fail" in bisect(pool, "before", "s3", probe, status=2)
    assert "no earlier state" in bisect(pool, "s7", "before", probe, status=2)
    assert "could not tell" in bisect(pool, "before", "s7", "sh", "-c", "exit 125", status=1)
    process.stop()
    check(pool)


def records(pool):
    """The log, without what lies between snapshots."""
    return [r for r in json.loads(cvd("log", f"{pool}/vm", "--json")) if "write" in r]


@limit(60)
def test_rollback(t):
    """A rollback is a moment like others: what was before it is there, the log tells of it, bisect goes across; the server is killed."""
    pool = make(t)
    cvd("history", f"{pool}/vm", "1h")
    state = {}

    def note(seed, **options):
        content = fill(t, pool, seed, mib=3, **options).rstrip(b"\0") if seed else None
        state[history(pool)["last"]] = content
        return content

    good = note(1)
    cvd("snap", f"{pool}/vm", "--name", "good")
    note(2)
    exported(t, pool, f"write {max(state)}")  # takes a hidden snapshot, which will be part of a branch
    spoilt = note(3, mark=b"SPOILT")
    before = max(state)
    for served in (True, False):
        process = t.use(PoolProcess(pool, t.folder)) if served else None
        was = t.soft_disk(f"cvd pool={pool} name='vm@{{write {before}}}' read-only=on", disk="was") if served else None
        cvd("rollback", f"{pool}/vm@good")
        rolled = history(pool)["last"]
        state[rolled] = good
        assert exported(t, pool, f"write {rolled}") == good, "what it returned to"
        if served:
            os.kill(process.worker(), signal.SIGKILL)
            copied = subprocess.run([SoftDisk.binary(), "bench", "--socket", was.socket, "--rw", "read", "--time",
                                     "300ms", "--json"], capture_output=True, text=True, timeout=120, check=True)
            t.equal(json.loads(copied.stdout)["errors"], 0)
            was.stop()
        note(5 + served)
        for number, content in state.items():
            assert exported(t, pool, f"write {number}") == content, f"write {number}, served: {served}"
        row = [r for r in records(pool) if r["write"] == rolled]
        t.equal([(r["owner"], r["offset"], r["length"]) for r in row], [("cvd rollback", 0, 64 * MIB)])
        at = [r["write"] for r in json.loads(cvd("log", f"{pool}/vm", "--sector", 8, "--json")) if "write" in r]
        assert rolled in at, at
        at = [r["write"] for r in json.loads(cvd("log", f"{pool}/vm", "--sector", 60 * MIB // 512, "--json")) if "write" in r]
        assert rolled not in at, "it is said to have changed what it did not"
        if served:
            process.stop()
        check(pool)
    probe = t.folder / "probe"
    probe.write_text("#!/bin/sh\nnbdcopy \"$CVD_URI\" - | grep -q SPOILT && exit 1\nexit 0\n")
    probe.chmod(0o755)
    found = bisect(pool, "good", f"{{write {before}}}", probe)
    assert max(n for n in state if n < before) < found["write"] <= before, found
    unspoilt = t.folder / "unspoilt"
    unspoilt.write_text("#!/bin/sh\nnbdcopy \"$CVD_URI\" - | grep -q SPOILT\n")
    unspoilt.chmod(0o755)
    found = bisect(pool, f"{{write {before}}}", f"{{write {before + 1}}}", unspoilt)
    t.equal((found["owner"], found["write"]), ("cvd rollback", before + 1))
    assert spoilt in (exported(t, pool, f"write {before}"),), "the branch"
    cvd("history", f"{pool}/vm", "off")
    t.equal(check(pool)["blocks"], 6 * MIB // 4096)  # the disk's and the snapshot's


@limit(60)
def test_received(t):
    """An incremental stream into a disk with a history; a full one needs another name."""
    pool = make(t)
    other = t.folder / "other"
    cvd("pool", "create", other, "--size", "1G")

    def pipe(snapshot, *options, status=0, name="vm"):
        stream = t.folder / "stream"
        stream.unlink(missing_ok=True)
        cvd("send", f"{pool}/vm@{snapshot}", *options, "--output", stream)
        with open(stream, "rb") as file:
            done = subprocess.run([binary(), "receive", f"{other}/{name}"], stdin=file, capture_output=True, text=True,
                                  timeout=120, check=False)
        t.equal(done.returncode, status, done.stderr)
        return done.stderr

    contents = [fill(t, pool, 1, mib=3).rstrip(b"\0")]
    cvd("snap", f"{pool}/vm", "--name", "s0")
    pipe("s0")
    cvd("history", f"{other}/vm", "1h")
    process = t.use(PoolProcess(other, t.folder))
    numbers = [history(other)["last"]]
    for i in range(1, 4):
        contents.append(fill(t, pool, 1 + i, mib=3).rstrip(b"\0"))
        cvd("snap", f"{pool}/vm", "--name", f"s{i}")
        pipe(f"s{i}", "--from", f"@s{i - 1}")
        numbers.append(history(other)["last"])
        assert exported(t, other, f"write {numbers[i - 1]}") == contents[i - 1]
    t.equal([r["owner"] for r in records(other)], ["cvd receive"] * 3)
    fill(t, other, 9, mib=1)
    contents.append(fill(t, pool, 9, mib=3).rstrip(b"\0"))
    cvd("snap", f"{pool}/vm", "--name", "s4")
    assert "cvd rollback" in pipe("s4", "--from", "@s3", status=1)
    cvd("rollback", f"{other}/vm@s3")
    pipe("s4", "--from", "@s3")
    numbers.append(history(other)["last"])
    assert "another name" in pipe("s4", status=1)
    pipe("s3", name="copy")
    process.stop()
    for content, number in zip(contents, numbers):
        assert exported(t, other, f"write {number}") == content, number
    check(other)


@limit(60)
def test_limit(t):
    """A history has no more than it may; what it has is told, and stays so when the pool is opened again."""
    pool = make(t)
    assert "24h" in cvd("history", f"{pool}/vm", "--most", "8M", status=2)
    assert "1M" in cvd("history", f"{pool}/vm", "1h", "--most", "64K", status=2)
    cvd("history", f"{pool}/vm", "1h", "--most", "8M")
    process = t.use(PoolProcess(pool, t.folder))
    first = history(pool)["last"]
    for seed in range(6):
        fill(t, pool, seed, mib=3)
    # What was written is counted in the background: little is counted at first.
    wait_for("what is too much to go", lambda: history(pool)["first"] > first and history(pool)["counted"] <= 8 * MIB)
    said = history(pool)
    assert 3 * MIB < said["counted"] <= said["most"] == 8 * MIB, said
    held = lambda: [row for row in json.loads(cvd("du", f"{pool}/vm", "--json")) if row["name"] == "vm@{history}"][0]
    wait_for("its space to come back", lambda: held()["held"] <= 8 * MIB)
    t.equal((held()["most"], held()["counted"]), (8 * MIB, history(pool)["counted"]))
    assert "8.0 MiB" in cvd("history", f"{pool}/vm") or "8M" in cvd("history", f"{pool}/vm")
    process.stop()
    cvd("history", f"{pool}/vm", "2h")
    now = history(pool)
    t.equal((now["keep"], now["most"], now["counted"]), (7200, 8 * MIB, said["counted"]))
    cvd("history", f"{pool}/vm", "2h", "--most", "0")
    t.equal((history(pool)["most"], history(pool)["counted"]), (0, 0))
    check(pool)


@limit(120)
def test_bisect_file_system(t):
    """A guest's ext4 loses its superblock to one write among many: that write is found."""
    pool = make(t)
    process = t.use(PoolProcess(pool, t.folder))
    disk = t.soft_disk(f"cvd pool={pool} name=vm", disk="guest")
    cvd("history", f"{pool}/vm", "1h")
    guest = t.guest([disk.socket])
    guest.check("mkfs.ext4 -q -E lazy_itable_init=0 /dev/vda && mkdir -p /mnt && "
                "mount /dev/vda /mnt && echo hello >/mnt/file && umount /mnt")
    cvd("snap", f"{pool}/vm", "--name", "good")
    guest.check("mount /dev/vda /mnt && for i in 1 2 3 4 5 6; do "
                "dd if=/dev/urandom of=/mnt/$i bs=64k count=8 2>/dev/null; sync; done; umount /mnt")
    guest.check("dd if=/dev/zero of=/dev/vda bs=1k seek=1 count=1 conv=fsync,notrunc 2>/dev/null")
    guest.check("dd if=/dev/urandom of=/dev/vda bs=64k seek=600 count=20 conv=fsync 2>/dev/null")
    cvd("snap", f"{pool}/vm", "--name", "bad")
    t.equal(kernel_errors(guest), "")
    guest.power_off()
    probe = t.folder / "probe"
    probe.write_text("#!/bin/sh\nnbdcopy \"$CVD_URI\" \"$1\" && "
                     "debugfs -R 'cat /file' \"$1\" 2>/dev/null | grep -q hello\n")
    probe.chmod(0o755)
    found = bisect(pool, "good", "bad", probe, t.folder / "disk.raw")
    t.equal((found["owner"], found["ranges"][0]["offset"]), ("guest", 0))
    rows = [r for r in json.loads(cvd("log", f"{pool}/vm", "--sector", 2, "--json")) if "write" in r]
    assert found["write"] in [r["write"] for r in rows], rows
    path = t.folder / "before"
    cvd("export", f"{pool}/vm@{found['good'][1:]}", path)
    t.equal(subprocess.run(["e2fsck", "-fn", path], capture_output=True, check=False).returncode, 0)
    disk.stop()
    process.stop()
    check(pool)


# Prints a text on the serial port, and stops: in real mode, at 0x7c00.
WELL = b"I am well"
BOOTS = (bytes.fromhex("31c0 8ed8 baf803 be167c fc ac 84c0 7403 ee ebf8 f4 ebfd") + WELL + b"\n\0").ljust(510, b"\0") + b"\x55\xaa"


@limit(90)
def test_bisect_boots_clones(t):
    """The example of a probe, which boots each state in QEMU, finds the snapshot with the broken boot sector."""
    pool, image = make(t), t.folder / "image"
    for n in range(1, 8):
        image.write_bytes((BOOTS if n < 5 else b"broken").ljust(4096, b"\0") + random.Random(n).randbytes(4096))
        cvd("fill", f"{pool}/vm", image)
        cvd("snap", f"{pool}/vm", "--name", f"s{n}")
    os.environ["ACCEL"] = paths.accelerator()
    probe = paths.SOURCE / "examples/probe-boot"
    found = bisect(pool, "s1", "s7", probe, "--timeout", 120, WELL.decode())
    t.equal((found["good"], found["bad"]), ("@s4", "@s5"))
    assert "fails at" in bisect(pool, "s1", "s7", probe, "--timeout", 2, "I am not", status=2)
    bisect(pool, "s1", "s7", probe, status=1)
    check(pool)
