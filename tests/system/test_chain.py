"""The extensions, judged from inside the guest."""

import json
import re
import time

from devtap_test import wait_for
from devtap_test.load import Load

MIB = 1 << 20


def test_in_a_guest(t):
    """A guest with a disk on each."""
    trace = t.folder / "trace.dtt"
    layers = (f"trace out={trace}", "error ops=read start=2048 sectors=8", "throttle iops=100", "delay ops=read time=100ms")
    disks = [t.soft_disk(f"{layer} | file path={t.sparse_file(64 * MIB, f'{number}.img')}", disk=f"vm{number}")
             for number, layer in enumerate(layers)]
    guest = t.guest([disk.socket for disk in disks])
    check_error(guest)
    check_throttle(t, guest, disks[2])
    check_delay(guest)
    check_trace(t, guest, disks[0], trace)


def check_error(guest):
    """An I/O error made below is an I/O error in the guest, there and nowhere else."""
    read = "dd if=/dev/vdb of=/dev/null bs=4k count=1 iflag=direct skip="
    guest.check(read + "0")
    guest.check(read + "255")
    status, output = guest.run(read + "256")
    assert status != 0 and "Input/output error" in output, output
    guest.check(read + "257")
    guest.check("dd if=/dev/zero of=/dev/vdb bs=4k count=1 oflag=direct seek=256")
    assert "I/O error" in guest.check("dmesg | grep vdb"), "the guest's kernel did not complain"


def fio_iops(guest, device, seconds):
    """4 KiB random reads; returns what fio counted per second."""
    text = guest.check(f"fio --name=r --filename={device} --ioengine=libaio --direct=1 --rw=randread "
                       f"--bs=4k --iodepth=16 --time_based --runtime={seconds} "
                       f"--output-format=json", seconds + 60)
    return json.loads(text[text.index("{"):])["jobs"][0]["read"]["iops"]


def check_throttle(t, guest, disk):
    """A limit holds, and changes while the guest works.

    How much a busy machine lets through is not ours to judge, but the limit is, and that a looser one lets
    more pass.
    """
    rates = []
    for limit in (100, 600):
        disk.set("throttle", iops=limit)
        rates.append(fio_iops(guest, "/dev/vdc", 5))
        t.log(f"limit {limit}: {rates[-1]}")
        assert rates[-1] <= 1.15 * limit, f"{rates[-1]} IOPS under a limit of {limit}"
    assert rates[1] > rates[0], f"{rates} IOPS: the change had no effect"


def test_limit_outlives(t):
    """A limit that was set live holds for the first request that a successor serves."""
    disk = t.soft_disk(f"throttle iops=1M | file path={t.sparse_file(64 * MIB)}")
    limit, kills, bucket = 10, 12, 3
    disk.set("throttle", iops=limit)
    load = Load(t, disk, 600, "--depth", "128", least=limit + 1)
    for _ in range(kills):
        time.sleep(0.2)
        disk.kill_worker()
    wait_for("a successor", disk.attached)
    result = load.stop(t, more_than=limit)  # what is in flight then is not counted
    most = limit * result["seconds"] + (kills + 1) * bucket
    t.log(f"{result['requests']} requests, at most {most:.0f}")
    assert result["requests"] <= most, f"{result['requests']} requests where {most:.0f} are allowed"


def check_delay(guest):
    """A delay is what the guest waits."""
    out = guest.check("cat /proc/uptime; for i in 1 2 3 4 5 6 7 8 9 10; do "
                      "dd if=/dev/vdd of=/dev/null bs=4k count=1 skip=$i iflag=direct "
                      "2>/dev/null; done; cat /proc/uptime").split()
    waited = float(out[2]) - float(out[0])
    assert waited >= 1.0, f"ten reads took {waited} s"


def check_trace(t, guest, disk, trace):
    """The trace holds what the guest's kernel counted, and what the firmware read before it."""
    guest.check("dd if=/dev/urandom of=/dev/vda bs=8k count=100 oflag=direct; "
                "dd if=/dev/vda of=/dev/null bs=4k count=200 iflag=direct")
    fields = guest.check("cat /sys/block/vda/stat").split()
    reads, writes = int(fields[0]), int(fields[4])
    assert reads >= 200 and writes == 100
    guest.close()
    served = {name: disk.operations("file", name) for name in ("read", "write")}
    disk.stop()
    printed = disk.devtap("trace", "print", str(trace))
    assert reads <= served["read"] <= reads + 8, "reads of the firmware"
    t.equal(served["write"], writes, "writes served")
    for operation, count in served.items():
        t.equal(len(re.findall(rf"\b{operation}\b", printed)), count, f"{operation}s in the trace")
    assert "write" in disk.devtap("trace", "summary", str(trace))
