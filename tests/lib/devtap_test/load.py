"""Loads on a disk: of devtap's own driver, and of a guest."""

import json
import random
import signal
import subprocess
import time

from .process import PATIENCE, catches, wait_for

MIB = 1 << 20
NOISE = 1000003  # prime, so that no two sectors are alike


class Load:
    """`devtap bench --verify` in the background.

    seconds: at least, if nobody stops it. name: of another disk of the same process. inflight: with the back end's
    in-flight log. least: it goes on until so many requests are done, however slow the machine is.
    """

    def __init__(self, t, disk, seconds, *options, name=None, inflight=False, least=101):
        self.out = open(t.folder / f"bench{time.monotonic()}.json", "w+", encoding="utf-8")
        log = [] if inflight else ["--no-inflight"]
        self.child = subprocess.Popen(
            [disk.binary(), "bench", "--socket", disk.sockets[name or disk.disk], "--verify", "--json",
             "--time", str(seconds), "--min-requests", str(least), *log, *options], stdout=self.out, stderr=subprocess.STDOUT)

    def running(self):
        """Is it?"""
        return self.child.poll() is None

    def judge(self, t, more_than=100):
        """Waits for the end: so many requests, no error, no mismatch, nothing lost or returned twice."""
        self.child.wait()
        self.out.seek(0)
        text = self.out.read()
        t.equal(self.child.returncode, 0, text)
        result = json.loads(text)
        for key in ("errors", "mismatches", "twice", "lost"):
            t.equal(result[key], 0, key)
        assert result["requests"] > more_than, text
        return result

    def stop(self, t, after=0.0, more_than=100):
        """Ends it before its time, so many seconds from now, and judges."""
        time.sleep(after)
        wait_for("the load to begin", lambda: not self.running() or catches(self.child.pid, signal.SIGTERM))
        self.child.terminate()
        return self.judge(t, more_than)


def percentiles(t, name, values):
    """Prints those of so many milliseconds each; returns the 99th."""
    values = sorted(values)
    at = [values[min(len(values) - 1, int(len(values) * p))] for p in (.5, .99)]
    t.log(f"{name}: p50 {at[0]:.2f} ms, p99 {at[1]:.2f} ms, max {values[-1]:.2f} ms")
    return at[1]


# Passes of fio, each of which writes and verifies an area, until told to stop.
PASSES = """
pass=0
while [ ! -e /tmp/stop ]; do
    pass=$((pass + 1))
    fio --name=v --filename={device} --ioengine=libaio --direct=1 --rw=randwrite \\
        --bsrange=4k-32k --iodepth={depth} --numjobs={jobs} --offset={offset} --size={size} \\
        --offset_increment={size} --verify=crc32c --verify_fatal=1 --verify_backlog={backlog} \\
        --randseed=$pass --group_reporting >/tmp/fio.log 2>&1 || { cp /tmp/fio.log /tmp/bad; break; }
    echo $pass >/tmp/passes
done
echo done >/tmp/done
"""


class VerifiedLoad:
    """fio in the background of a guest, writing and verifying until .finish().

    guest may be replaced by the guest that the load has migrated to. depth, size: of each job.
    """

    def __init__(self, guest, jobs=1, device="/dev/vda", offset=0, depth=16, size="8m"):
        self.guest = guest
        self.disk = device.rsplit("/", 1)[1]
        script = PASSES
        for name, value in (("device", device), ("jobs", jobs), ("offset", offset), ("depth", depth),
                            ("size", size), ("backlog", 2 * depth)):
            script = script.replace(f"{{{name}}}", str(value))
        guest.check(f"rm -f /tmp/stop /tmp/done; cat >/tmp/load.sh <<'SH'\n{script}\nSH\n"
                    "(sh /tmp/load.sh >/dev/null 2>&1 &)")

    def requests(self):
        """Reads and writes that the guest's kernel has seen completed; fails with fio's words if fio has given up."""
        text = self.guest.check(f"cat /tmp/bad 2>/dev/null; cat /sys/block/{self.disk}/stat")
        bad, _, stat = text.rpartition("\n")
        assert not bad, f"fio: {bad}"
        fields = stat.split()
        return int(fields[0]) + int(fields[4])

    def goes_on(self, more=20, timeout=2 * PATIENCE):
        """Waits until `more` requests have completed since now. A look costs an emulated guest 20 ms."""
        before = self.requests()
        wait_for("the guest's I/O to go on", lambda: self.requests() > before + more, timeout, 0.05)

    def check(self, when=""):
        """Fails with fio's words if fio has found fault."""
        found = self.guest.run("test -e /tmp/bad && cat /tmp/bad")
        assert found == (1, ""), f"fio {when}: {found[1]}"

    def survives_rear(self, disk, rear, kills, before=lambda: None):
        """Kills the rear, the disk's worker, and both at once, in turn; the load must go on each time."""
        for number in range(kills):
            self.goes_on()
            before()
            if number % 3 != 1:
                rear.kill()
            if number % 3 != 0:
                disk.kill_worker()
            if number % 3 != 1:
                rear.restart()
            self.check(f"after kill {number}")
        self.goes_on()

    def survives_kills(self, disk, kills):
        """Kills the disk's worker at random moments; the load must go on each time."""
        generator = random.Random(1)
        for _ in range(kills):
            time.sleep(generator.uniform(0.05, 0.5))
            disk.kill_worker()
            self.goes_on()
            self.check("after a kill")

    def finish(self):
        """Ends the load after the pass it is at; returns the number of passes."""
        self.guest.check("touch /tmp/stop")
        wait_for("the last pass of fio", lambda: self.guest.run("test -e /tmp/done")[0] == 0,
                 5 * PATIENCE, 0.5)
        self.check("at the end")
        return int(self.guest.check("cat /tmp/passes"))


def noise(mib):
    """Shell words that print so many MiB of random bytes; of /dev/urandom an emulated guest gets 16 MiB a second."""
    size = mib * MIB
    return (f"(head -c {NOISE} /dev/urandom >/tmp/noise; "
            f"cat $(yes /tmp/noise | head -n {size // NOISE + 1}) | head -c {size}; rm /tmp/noise)")


def fio_verify(guest, device="/dev/vda", size="32m", depth=16, jobs=1, mix="randrw", timeout=5 * PATIENCE,
               options=""):
    """Writes and verifies by CRC32C with fio on a raw device; fails on any mismatch.

    Each job has an area of its own: writers must not overlap while verifying.
    """
    return guest.check(
        f"fio --name=verify --filename={device} --ioengine=libaio --direct=1 --rw={mix}"
        f" --bsrange=4k-64k --iodepth={depth} --numjobs={jobs} --size={size}"
        f" --offset_increment={size} --verify=crc32c --verify_fatal=1 --verify_backlog=64"
        f" --randseed=7 --group_reporting --output-format=terse {options}", timeout)


def file_system(guest, kind="ext4", device="/dev/vda", files=64, timeout=5 * PATIENCE):
    """Makes a file system, writes a tree, reads it back cold, and checks the file system."""
    force = "-F -q" if kind == "ext4" else "-f -q"
    check = f"e2fsck -f -n {device}" if kind == "ext4" else f"xfs_repair -n {device}"
    guest.check(f"""set -e
        mkfs.{kind} {force} {device}
        mkdir -p /mnt/t && mount -t {kind} {device} /mnt/t
        i=0; while [ $i -lt {files} ]; do
            mkdir -p /mnt/t/d$((i % 8))
            head -c $((i * 3001 + 17)) /dev/urandom >/mnt/t/d$((i % 8))/f$i; i=$((i + 1))
        done
        (cd /mnt/t && find . -type f -exec sha256sum {{}} +) >/tmp/sums
        umount /mnt/t; echo 3 >/proc/sys/vm/drop_caches
        mount -t {kind} {device} /mnt/t
        (cd /mnt/t && sha256sum -c /tmp/sums >/dev/null)
        rm -r /mnt/t/d0; sync; umount /mnt/t
        {check}""", timeout)


def kernel_errors(guest):
    """The guest kernel's complaints about disks: empty when all is well."""
    _, text = guest.run("dmesg | grep -i -E 'I/O error|blk_update|critical|EXT4-fs error|"
                        "XFS.*(error|corrupt)|Buffer I/O|hung task|blocked for more' || true")
    return text.strip()
