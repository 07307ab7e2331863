"""kill -9 under verified load: the guest must notice nothing but a pause.

An emulated guest is slower than a soft disk, so at most moments nothing would be in flight and
a kill would prove little: the extension `delay` keeps requests in the worker. (On
qemu-storage-daemon, which has no INFLIGHT, the same test hangs the guest.)
"""

import os
import random
import time

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.load import kernel_errors

MIB = 1 << 20
KILLS = int(os.environ.get("DEVTAP_KILLS", "100"))

# Passes of fio, each of which writes and verifies an area, until told to stop.
LOAD = """
pass=0
while [ ! -e /tmp/stop ]; do
    pass=$((pass + 1))
    fio --name=v --filename=/dev/vda --ioengine=libaio --direct=1 --rw=randwrite \\
        --bsrange=4k-32k --iodepth=16 --numjobs={jobs} --size=8m --offset_increment=8m \\
        --verify=crc32c --verify_fatal=1 --verify_backlog=32 --randseed=$pass \\
        --group_reporting >/tmp/fio.log 2>&1 || { cp /tmp/fio.log /tmp/bad; break; }
    echo $pass >/tmp/passes
done
echo done >/tmp/done
"""


def killed(t, packed, queues, kills, chain=""):
    """Kills the worker `kills` times, each time after the guest has got on."""
    image = t.sparse_file(128 * MIB)
    disk = t.soft_disk(f"{chain}file path={image}", options=["--single"])
    guest = t.guest([Disk(disk.socket, queues=queues, packed=packed, reconnect=1)], smp=2)
    guest.check("cat >/tmp/load.sh <<'SH'\n" + LOAD.replace("{jobs}", str(queues)) + "\nSH\n"
                "(sh /tmp/load.sh >/dev/null 2>&1 &)")
    generator = random.Random(1)
    longest = 0.0

    def requests():
        fields = guest.check("cat /sys/block/vda/stat").split()
        return int(fields[0]) + int(fields[4])

    for number in range(1, kills + 1):
        before = requests()
        started = time.monotonic()
        wait_for("the guest's I/O to go on", lambda seen=before: requests() > seen + 20, 60.0)
        longest = max(longest, time.monotonic() - started)
        time.sleep(generator.uniform(0, 0.3))
        t.equal(guest.run("test -e /tmp/bad && cat /tmp/bad"), (1, ""), f"fio after {number} kills")
        disk.kill()
        disk.restart()
    guest.check("touch /tmp/stop")
    wait_for("the last pass of fio", lambda: guest.run("test -e /tmp/done")[0] == 0, 120.0, 0.5)
    t.equal(guest.run("test -e /tmp/bad && cat /tmp/bad"), (1, ""), "fio at the end")
    t.equal(kernel_errors(guest), "")
    t.log(f"{kills} kills, {guest.check('cat /tmp/passes')} passes of fio, "
          f"longest wait for progress {longest:.1f} s")


SLOW = "delay ops=read,write time=10ms | "


@limit(1200)
def test_split(t):
    killed(t, packed=False, queues=2, kills=KILLS, chain=SLOW)


@limit(1200)
def test_packed(t):
    killed(t, packed=True, queues=2, kills=KILLS, chain=SLOW)


@limit(600)
def test_file_alone(t):
    """Without a delay a kill meets I/O that the host kernel is doing: the fence's case."""
    killed(t, packed=False, queues=2, kills=max(1, KILLS // 4))
