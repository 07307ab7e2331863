"""A guest's trace, replayed: what was recorded comes again, and a disk that loses writes is found out."""

import json
import shutil
import subprocess

from devtap_test import Disk, SoftDisk
from devtap_test.case import limit
from devtap_test.load import fio_verify

MIB = 1 << 20


def replay(socket, trace, *options):
    """devtap trace replay: the exit status and the report."""
    done = subprocess.run([SoftDisk.binary(), "trace", "replay", "--json", "--socket", socket,
                           *options, trace], text=True, capture_output=True, timeout=120, check=False)
    return done, json.loads(done.stdout) if done.stdout else {}


def recorded(t):
    """A trace with hashes of a guest's work, and the image as it was when it began."""
    before = str(t.sparse_file(64 * MIB, "before.img"))
    with open(before, "r+b") as image:
        image.write(bytes(range(256)) * (4 * MIB // 256))
    image = shutil.copy(before, before.replace("before", "disk"))
    trace = image.replace("disk.img", "guest.dtt")
    disk = t.soft_disk(f"trace out={trace} hash=xxh3 | file path={image}")
    guest = t.guest([Disk(disk.socket)])
    guest.check("dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct; "
                "mkfs.ext4 -F -q /dev/vda; sync; blkdiscard -z -o 33554432 -l 1048576 /dev/vda")
    fio_verify(guest, size="8m", options="--fsync=16")
    guest.close()
    disk.stop()
    return trace, before


@limit(180)
def test_of_a_guest(t):
    """Replayed as it was, and on a disk that loses writes; and as fio's."""
    trace, before = recorded(t)
    check_replay(t, trace, before)
    check_iolog(t, trace, shutil.copy(before, before.replace("before", "fio")))
    check_bad_disk(t, trace, before)


def check_replay(t, trace, before):
    """What was recorded comes again, and the hashes tell another disk."""
    summary = json.loads(subprocess.run([SoftDisk.binary(), "trace", "summary", "--json", trace],
                                        check=True, capture_output=True).stdout)
    requests = sum(each["requests"] for each in summary["ops"].values())
    copy = shutil.copy(before, before.replace("before", "copy"))
    disk = t.soft_disk(f"file path={copy}")
    done, report = replay(disk.socket, trace, "--verify", "--hashes", "--closed")
    t.equal(done.stderr, "")
    t.equal(report["requests"] + report["skipped"], requests)
    t.equal((report["errors"], report["mismatches"], report["lost"]), (0, 0, 0))
    assert report["checked"] > 64, report
    # Open loop, faster than it was recorded; by now the disk is another one, which the hashes tell.
    done, report = replay(disk.socket, trace, "--verify", "--speed", "50")
    t.equal((done.returncode, report["mismatches"]), (0, 0))
    assert report["seconds"] < report["recorded_seconds"], report
    done, report = replay(disk.socket, trace, "--verify", "--hashes", "--closed")
    assert done.returncode and report["mismatches"], report
    assert "differ from what was read when the trace was made" in done.stderr, done.stderr
    disk.stop()


def check_bad_disk(t, trace, image):
    """Lost writes are found out, and a disk that is too small."""
    disk = t.soft_disk(f"error mode=lost ops=write probability=2% | file path={image}")
    done, report = replay(disk.socket, trace, "--verify", "--closed")
    assert done.returncode and report["mismatches"], report
    disk.stop()
    small = t.soft_disk("mem size=32M", disk="vm2")
    done, _ = replay(small.socket, trace)
    assert "the trace uses sectors up to" in done.stderr, done.stderr


def check_iolog(t, trace, image):
    """fio reads the trace as its own log, and does as much."""
    log = trace.replace(".dtt", ".iolog")
    with open(log, "w", encoding="ascii") as out:
        subprocess.run([SoftDisk.binary(), "trace", "to-fio", "--ops=read,write", trace], check=True, stdout=out)
    done = subprocess.run(["fio", "--name=replay", f"--read_iolog={log}", f"--replay_redirect={image}",
                           "--replay_no_stall=1", "--ioengine=psync", "--output-format=json"],
                          check=True, capture_output=True, text=True, timeout=120)
    job = json.loads(done.stdout)["jobs"][0]
    lines = [line.split()[2] for line in open(log, encoding="ascii").readlines()[1:]]
    t.equal(job["read"]["total_ios"], lines.count("read"))
    t.equal(job["write"]["total_ios"], lines.count("write"))
