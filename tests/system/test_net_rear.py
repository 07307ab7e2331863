"""The back `vhost-user` of a card: a guest on a tap before another back end, our own or DPDK's."""

import os
import shutil

from devtap_test import wait_for
from devtap_test.card import INIT, Card, Namespace, arguments, ping, require, transfer
from devtap_test.case import Skip, limit
from devtap_test.process import Process, free_socket_path


def tapped(t, queues=1, packed=False, options="", threads=()):
    """A namespace, a card in it that is the rear, the tap before that, and a guest on the tap."""
    require()
    space = t.use(Namespace(t.folder, queues > 1))
    rear = t.use(Card("tap ifname=card0", t.folder, space.enter, threads, card="rear"))
    tap = t.use(Card(f"vhost-user path={rear.socket} {options}", t.folder, options=threads, card="tap"))
    guest = t.guest(root="initramfs", smp=queues, extra=arguments(tap, packed, queues))
    guest.check(INIT)
    return space, rear, tap, guest


def complaints(guest):
    """What the guest's driver says of its card, if anything."""
    return guest.run("dmesg | grep -i 'NETDEV WATCHDOG\\|virtio.*error\\|not a head'")[1]


def restart(rear, space, folder):
    """Another process in the rear's place."""
    rear.kill()
    os.unlink(rear.socket)  # or the next one would take another name
    return Card("tap ifname=card0", folder, space.enter, card="rear")


@limit(150)
def test_interpose(t):
    """TCP both ways with offloads, and our chain sees every packet; then our worker dies, and the rear."""
    space, rear, tap, guest = tapped(t)
    ping(guest)
    transfer(t, space, guest)
    sent = tap.ops("vhost-user", "transmit")
    t.equal(sent["errors"], 0, "dropped")
    assert sent["bytes"] / sent["requests"] > 1514, f"no super-frame came: {sent}"
    t.equal(rear.ops("tap", "transmit")["requests"], sent["requests"], "packets of the rear")
    got = tap.ops("vhost-user", "receive")
    assert got["bytes"] / got["requests"] > 1514, f"no super-frame came: {got}"
    tap.kill_worker()
    ping(guest)
    rear.kill_worker()
    ping(guest)
    t.equal(tap.counters("vhost-user")["rear-losses"], 0, "sessions lost with the rear's worker")
    t.use(restart(rear, space, t.folder))
    wait_for("the rear to be back", lambda: "serves again" in tap.output())
    ping(guest)
    t.equal(tap.counters("vhost-user")["rear-losses"], 1)
    t.equal(tap.counters("vhost-user")["rear-lies"], 0)
    t.equal(complaints(guest), "")


@limit(150)
def test_two_threads(t):
    """Packed rings on both sides, and two pairs of them, each on a thread of its own."""
    space, _rear, tap, guest = tapped(t, queues=2, packed=True, options="packed=on",
                                      threads=("--threads", "2", "--threads-per-disk", "2"))
    for cpu in range(2):
        guest.check(f"taskset -c {cpu} ping -c 25 -i 0.01 -W 5 10.77.0.1", timeout=60)
    transfer(t, space, guest, mib=4)
    t.equal(tap.show()["front"]["dropped"]["no_buffer"], 0, "dropped")
    t.equal(complaints(guest), "")


class Testpmd(Process):
    """DPDK's, with a vhost port that answers pings."""

    def __init__(self, folder):
        binary = shutil.which("dpdk-testpmd")
        if not binary:
            raise Skip("no dpdk-testpmd (scripts/deps test)")
        self.socket = free_socket_path(folder, "pmd.sock")
        super().__init__([binary, "--lcores=0@0,1@1", "--main-lcore=0", "--no-huge", "-m", "256", "--no-pci",
                          f"--file-prefix=dt{os.getpid()}", "--vdev", f"net_vhost0,iface={self.socket}", "--",
                          "--nb-cores=1", "--port-topology=loop", "--forward-mode=icmpecho", "--auto-start",
                          "--total-num-mbufs=4096", "--stats-period=1000"], folder, name="testpmd")
        wait_for("its socket", lambda: os.path.exists(self.socket))


@limit(120)
def test_dpdk(t):
    """Somebody else's back end as the rear; it dies and comes back."""
    pmd = t.use(Testpmd(t.folder))
    tap = t.use(Card(f"vhost-user path={pmd.socket}", t.folder, card="tap"))
    guest = t.guest(root="initramfs", extra=arguments(tap))
    guest.check(INIT)
    ping(guest)
    pmd.kill()
    os.unlink(pmd.socket)
    wait_for("the loss", lambda: tap.counters("vhost-user")["rear-losses"] == 1)
    t.use(Testpmd(t.folder))
    wait_for("the rear to be back", lambda: "serves again" in tap.output())
    ping(guest)
    t.equal(tap.counters("vhost-user")["rear-lies"], 0)
    t.equal(complaints(guest), "")
