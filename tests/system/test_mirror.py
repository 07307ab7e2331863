"""A guest on a mirror of `file` and `nbd` while legs and processes are killed."""

import json
import os
import random
import signal
import subprocess
import time

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, kernel_errors
from devtap_test.process import Process, free_socket_path

MIB = 1 << 20
SIZE = 64 * MIB
METADATA = 128 << 10
ROUNDS = int(os.environ.get("DEVTAP_MIRROR_ROUNDS", "4"))


class Server(Process):
    """nbdkit serving a file on a Unix socket, again after .restart()."""

    def __init__(self, folder, image):
        self.socket = free_socket_path(folder, "leg.nbd")
        self.arguments = ["nbdkit", "-f", "-U", self.socket, "file", str(image)]
        super().__init__(self.arguments, folder, name="nbdkit", ready_socket=self.socket)

    def restart(self):
        """Serves the same file again."""
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        super().__init__(self.arguments, self.folder, name=self.name, ready_socket=self.socket)


def status(disk):
    """What the mirror says of itself; {} while nobody can be asked."""
    try:
        return json.loads(disk.devtap("do", "--json", disk.address, "mirror", "status"))
    except RuntimeError:
        return {}


def complete(disk, timeout=60.0):
    """Waits until all legs are in sync."""
    wait_for("all legs in sync", lambda: status(disk).get("state") == "complete", timeout, 0.1)


@limit(300)
def test_legs_and_workers_killed(t):
    """Of a leg's server and of workers, at random, under verified load."""
    a, b = t.sparse_file(SIZE + METADATA, "a.img"), t.sparse_file(SIZE + METADATA, "b.img")
    server = t.use(Server(t.folder, b))
    disk = t.soft_disk(
        f"mirror create=clean retry=500ms missing=any leg1='file path={a}' "
        f"leg2='nbd uri=nbd+unix:///?socket={server.socket} timeout=500ms fence-delay=100ms "
        "connect-timeout=3s'")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    generator = random.Random(1)
    for number in range(1, ROUNDS + 1):
        load.goes_on()
        complete(disk)
        server.kill()
        load.goes_on()
        time.sleep(generator.uniform(0, 1))
        t.equal(status(disk)["state"], "degraded")
        server.restart()
        time.sleep(generator.uniform(0, 0.7))
        os.kill(disk.show()["worker"], signal.SIGKILL)
        load.goes_on()
        load.check(f"after {number} rounds")
    complete(disk)
    passes = load.finish()
    t.equal(kernel_errors(guest), "")
    guest.power_off()
    t.log(f"{passes} passes of fio, {status(disk)}")
    t.equal(disk.stop(), 0, "exit status")
    server.stop()
    subprocess.run(["cmp", "-n", str(SIZE), a, b], check=True)
