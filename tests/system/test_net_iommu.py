"""Cards of guests with an IOMMU: we reach what they map, and no more."""

import subprocess

from devtap_test import paths
from devtap_test.card import INIT, Card, Namespace, arguments, ping, require, survive, transfer
from devtap_test.case import limit

# As for disks: only behind a port of its own has a virtio device ATS, and only with that does QEMU tell of all that is
# taken back.
INTEL = ("-device", "intel-iommu,device-iotlb=on,intremap=off", "-device", "pcie-root-port,id=root0")


def start(t, chain="tap ifname=card0", packed=False, queues=1, append="", options=()):
    """A card, and a guest whose every transfer goes through its IOMMU."""
    require()
    space = t.use(Namespace(t.folder, queues > 1))
    card = t.use(Card(chain, t.folder, space.enter, ("--iommu", "on", *options)))
    return space, card, on(t, card, packed, queues, append)


def on(t, card, packed=False, queues=1, append=""):
    """A guest on the card."""
    guest = t.guest(root="initramfs", smp=queues, before=INTEL,
                    append=f"intel_iommu=on iommu=nopt {append}",
                    extra=arguments(card, packed, queues, extra=",bus=root0,iommu_platform=on,ats=on,disable-legacy=on"))
    guest.check(INIT)
    features = int(card.show()["front"]["features"], 16)
    assert features >> 33 & 1, f"ACCESS_PLATFORM is not among 0x{features:x}"
    return guest


def nothing_wrong(t, card, guest):
    """No session broke, no packet of the guest's was refused, and its kernel says nothing."""
    front = card.show()["front"]
    t.log(front["iommu"])
    t.equal(front["broken"], 0, "sessions that broke")
    t.equal((front["dropped"]["bad_header"], front["dropped"]["bad_length"]), (0, 0), "refused")
    t.equal(guest.run("dmesg | grep -i 'NETDEV WATCHDOG\\|DMAR.*fault\\|virtio.*error'")[0], 1, "complaints")
    return front["iommu"]


@limit(240)
def test_strict(t):
    """Each buffer is mapped before its packet, and taken back after it."""
    space, card, guest = start(t, append="iommu.strict=1")
    ping(guest)
    transfer(t, space, guest, mib=2)
    seen = nothing_wrong(t, card, guest)
    assert seen["active"] and seen["misses"] > 100 and seen["invalidations"] > 100, seen


@limit(240)
def test_lazy_packed_two_queues(t):
    """The guest takes back all at once, its rings with it, every few milliseconds; and has the control queue, which is
    the VMM's, use its second pair of queues or not."""
    space, card, guest = start(t, packed=True, queues=2, append="iommu.strict=0",
                               options=("--threads", "2", "--threads-per-disk", "2"))
    ping(guest)
    transfer(t, space, guest, mib=2)
    for _ in range(2):
        guest.check("ip link set eth0 down; ip link set eth0 promisc on; ip link set eth0 up")
        ping(guest)
    seen = nothing_wrong(t, card, guest)
    assert seen["misses"] > 10 and seen["invalidations"] > 0, seen


@limit(240)
def test_rear(t):
    """Before another back end: it serves in interpose, and passthrough is refused."""
    require()
    space = t.use(Namespace(t.folder))
    rear = t.use(Card("tap ifname=card0", t.folder, space.enter, card="rear"))
    card = t.use(Card(f"vhost-user path={rear.socket}", t.folder, options=("--iommu", "on")))
    guest = on(t, card)
    ping(guest)
    done = subprocess.run([paths.devtap(), "mode", card.card, "passthrough"], env=card.environment, check=False,
                          timeout=30, text=True, stderr=subprocess.PIPE)
    assert done.returncode and "IOMMU" in done.stderr, done
    transfer(t, space, guest, mib=1)
    nothing_wrong(t, card, guest)


@limit(240)
def test_worker_killed(t):
    """A successor knows no translation, and asks for each; the connection goes on."""
    space, card, guest = start(t, append="iommu.strict=1")
    ping(guest, 1)
    survive(t, space, card, guest, "10.77.0.2", mib=1)
    for _ in range(3):
        card.kill_worker()
        ping(guest, 1)
    nothing_wrong(t, card, guest)


@limit(240)
def test_limited(t):
    """What a limiter holds stays held while the guest takes memory back; and rings come and go with the guest's driver."""
    _space, card, guest = start(t, "rate tx-bits=2M | tap ifname=card0", append="iommu.strict=0")
    for _ in range(2):
        ping(guest)
        guest.check("d=$(basename $(readlink -f /sys/class/net/eth0/device)); cd /sys/bus/virtio/drivers/virtio_net; "
                    f"echo $d >unbind; echo $d >bind; cd /; {INIT}", 30)
    guest.qmp.command("stop")
    guest.qmp.command("cont")
    ping(guest)
    nothing_wrong(t, card, guest)
