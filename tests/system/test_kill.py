"""kill -9 under verified load: the guest must notice nothing but a pause.

An emulated guest is slower than a soft disk, so at most moments nothing would be in flight and
a kill would prove little: the extension `delay` keeps requests in the worker. (On
qemu-storage-daemon, which has no INFLIGHT, the same test hangs the guest.) DEVTAP_KILLS says how
often each test kills; the full number is 100.
"""

import os
import random
import time

from devtap_test import Disk
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, kernel_errors

MIB = 1 << 20
KILLS = int(os.environ.get("DEVTAP_KILLS", "24"))


def killed(t, packed, queues, kills, chain=""):
    """Kills the worker `kills` times, each time after the guest has got on."""
    image = t.sparse_file(128 * MIB)
    disk = t.soft_disk(f"{chain}file path={image}", options=["--single"])
    guest = t.guest([Disk(disk.socket, queues=queues, packed=packed, reconnect=1)], smp=2)
    load = VerifiedLoad(guest, jobs=queues)
    generator = random.Random(1)
    longest = 0.0
    for number in range(1, kills + 1):
        started = time.monotonic()
        load.goes_on()
        longest = max(longest, time.monotonic() - started)
        time.sleep(generator.uniform(0, 0.3))
        load.check(f"after {number} kills")
        disk.kill()
        disk.restart()
    passes = load.finish()
    t.equal(kernel_errors(guest), "")
    t.log(f"{kills} kills, {passes} passes of fio, longest wait for progress {longest:.1f} s")


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
