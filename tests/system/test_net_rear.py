"""The back `vhost-user` of a card: a guest on a tap before another back end, our own or DPDK's."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

from devtap_test import paths, wait_for
from devtap_test.card import INIT, Card, Namespace, arguments, ping, require, transfer
from devtap_test.case import Skip, limit
from devtap_test.openvswitch import OpenVSwitch
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
    """TCP both ways with offloads, and our chain sees every packet; then our worker dies, at a limit, too, and the rear."""
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
    rear = t.use(restart(rear, space, t.folder))
    wait_for("the rear to be back", lambda: "serves again" in tap.output())
    ping(guest)
    t.equal(tap.counters("vhost-user")["rear-losses"], 1)
    t.equal(tap.counters("vhost-user")["rear-lies"], 0)
    keeps_limit(rear, tap, guest)
    t.equal(complaints(guest), "")


def keeps_limit(rear, tap, guest):
    """Workers that die under a flood let no more through than one that lives."""
    tap.devtap("insert", "tap", "top", "rate", "tx-packets=200")
    flood(guest, 200000)
    begin, before = time.monotonic(), rear.ops("tap", "transmit")["requests"]
    for _ in range(3):
        time.sleep(0.5)
        tap.kill_worker()
    time.sleep(0.5)
    wait_for("packets", lambda: rear.ops("tap", "transmit")["requests"] > before + 20)
    passed, elapsed = rear.ops("tap", "transmit")["requests"] - before, time.monotonic() - begin
    guest.run("killall ping")  # unless it has sent all of them
    # What a worker had taken and not given back is sent again; a bucket begins with one token.
    assert passed <= 200 * elapsed + 40, f"{passed} packets in {elapsed:.2f} s, at 200 a second"


@limit(150)
def test_two_threads(t):
    """Packed rings on both sides, and two pairs of them, each on a thread of its own; whoever dies in passthrough."""
    space, rear, tap, guest = tapped(t, queues=2, packed=True, options="packed=on",
                                      threads=("--threads", "2", "--threads-per-disk", "2"))
    for cpu in range(2):
        guest.check(f"taskset -c {cpu} ping -c 25 -i 0.01 -W 30 10.77.0.1", timeout=120)
    transfer(t, space, guest, mib=4)
    t.equal(tap.show()["front"]["dropped"]["no_buffer"], 0, "dropped")
    for _ in range(3):
        mode(tap, "passthrough")
        passes_by(t, tap, guest)
        mode(tap, "interpose")
        ping(guest)
    mode(tap, "passthrough")
    for victim in (rear, tap):
        flood(guest)
        victim.kill_worker()
        answers(guest)
        passes_by(t, tap, guest)
    flood(guest)
    t.use(restart(rear, space, t.folder))
    wait_for("the rear to be back", lambda: "serves again" in tap.output())
    answers(guest)
    passes_by(t, tap, guest)
    t.equal(complaints(guest), "")


def answers(guest):
    """The host's stack may look for the guest's address first: a TAP interface that nobody has open has no carrier."""
    guest.check("until ping -c 1 -W 1 10.77.0.1; do :; done", timeout=120)


def flood(guest, count=2000):
    """Traffic of the guest's for some seconds, or longer, while the test goes on."""
    guest.check(f"for i in 1 2; do (ping -i 0.002 -c {count} -s 1000 10.77.0.1 > /dev/null 2>&1) & done; true")


def mode(card, wanted):
    """Changes the mode, which must succeed at once."""
    said = card.devtap("mode", card.card, wanted).strip()
    assert said == wanted, f"asked for {wanted}: {said}"


def passes_by(t, card, guest):
    """In passthrough the guest's packets get there, and our chain sees none."""
    wait_for("passthrough", lambda: card.show()["front"]["mode"] == "passthrough")
    seen = card.ops("vhost-user", "transmit")["requests"]
    ping(guest)
    t.equal(card.ops("vhost-user", "transmit")["requests"], seen, "packets that our chain saw")


@limit(150)
def test_modes(t):
    """Passthrough and back under traffic, and whoever dies in passthrough; then a back of ours."""
    space, rear, tap, guest = tapped(t)
    mode(tap, "passthrough")
    passes_by(t, tap, guest)
    transfer(t, space, guest, mib=4)
    guest.check("(ping -i 0.02 -c 150 -W 30 10.77.0.1 > /tmp/pings) > /dev/null 2>&1 & true")
    for number in range(10):
        mode(tap, ("interpose", "passthrough")[number % 2])
    guest.check("while pidof ping > /dev/null; do sleep 0.1; done", timeout=120)
    lost = 150 - int(guest.check("grep -o '[0-9]* packets received' /tmp/pings").split()[0])
    assert lost <= 20, f"{lost} of 150 pings were lost in ten changes"
    passes_by(t, tap, guest)
    assert tap.show()["front"]["passed_through"] > 0
    tap.kill_worker()
    passes_by(t, tap, guest)
    rear.kill_worker()
    passes_by(t, tap, guest)
    t.use(restart(rear, space, t.folder))
    wait_for("the rear to be back", lambda: "serves again" in tap.output())
    passes_by(t, tap, guest)
    mode(tap, "interpose")
    ping(guest)
    tap.devtap("mode", "tap", "intercept", "null")
    t.equal(guest.run("ping -c 1 -W 1 10.77.0.1")[0], 1, "an answer from nowhere")
    mode(tap, "interpose")
    ping(guest)
    t.equal(complaints(guest), "")


def follow(t, card, guest):
    """Takes the guest's card down and up as its manual page shows: an event says when to look at what `card` is."""
    heard = t.use(Process([paths.devtap(), "events", "--follow", card.card], t.folder, name="events", env=card.environment))
    seen, told = None, None

    def carry():
        nonlocal seen, told
        lines = heard.output().count("\n")
        if lines == seen:
            return
        up = card.show()["card"]["link"] != "down"
        if up != told:
            guest.qmp.command("set_link", name="nic0", up=up)
        seen, told = lines, up
    return carry


def in_guest(carry, guest, carrier):
    """Waits until the guest's card is up or down."""
    def sees():
        with contextlib.suppress(subprocess.CalledProcessError):  # nobody answers while a worker is replaced
            carry()
        return guest.check("cat /sys/class/net/eth0/carrier").strip() == str(carrier)
    wait_for("the guest's card", sees)


def outlived(t, space, rear, tap, guest, carry):
    """The rear dies and then our worker, and nobody serves until the rear is there again: what was told is taken back."""
    rear.kill()
    told_of(tap, "down")
    in_guest(carry, guest, 0)
    os.kill(tap.show()["worker"], signal.SIGKILL)
    wait_for("a worker without a rear", lambda: "cannot serve" in tap.devtap("events", tap.card))
    os.unlink(rear.socket)  # or the next one would take another name
    rear = t.use(Card("tap ifname=card0", t.folder, space.enter, ("--config-space", "on"), card="rear"))
    told_of(tap, "up")
    links = [event["event"] for event in map(json.loads, tap.devtap("events", "--json", tap.card).splitlines())
             if event["event"].startswith("link-")]
    t.equal(links[-1], "link-up", "told last")
    in_guest(carry, guest, 1)
    answers(guest)
    return rear


def told_of(card, link):
    """Waits until the link is said to be so, by a worker that serves."""
    def says():
        with contextlib.suppress(subprocess.CalledProcessError):
            return card.show()["card"]["link"] == link
        return False
    wait_for(f"{card.card}'s link to be {link}", says)


@limit(240)
def test_link(t):
    """A rear with a configuration space: its largest packet is the card's, and its link the guest's, in both modes."""
    require()
    space = t.use(Namespace(t.folder))
    space.run("ip", "link", "set", "card0", "mtu", "3000")
    rear = t.use(Card("tap ifname=card0", t.folder, space.enter, ("--config-space", "on"), card="rear"))
    tap = t.use(Card(f"vhost-user path={rear.socket}", t.folder, options=("--config-space", "on"), card="tap"))
    t.equal([card.show()["card"]["mtu"] for card in (rear, tap)], [3000, 3000], "largest packet")
    guest = t.guest(root="initramfs", extra=arguments(tap, mtu=3000, extra=",id=nic0"))
    guest.check(INIT)
    ping(guest)
    t.equal(guest.check("cat /sys/class/net/eth0/mtu").strip(), "3000", "largest packet in the guest")
    guest.check("ping -c 1 -W 30 -s 2900 10.77.0.1")
    carry = follow(t, tap, guest)
    for wanted in ("interpose", "passthrough"):
        mode(tap, wanted)
        for link, carrier in (("down", 0), ("up", 1)):
            space.run("ip", "link", "set", "card0", link)
            told_of(rear, link)
            told_of(tap, link)
            in_guest(carry, guest, carrier)
        answers(guest)
    for victim in (rear, tap):
        victim.kill_worker()
        told_of(tap, "up")
        in_guest(carry, guest, 1)
        answers(guest)
    rear = outlived(t, space, rear, tap, guest, carry)
    rear.stop()
    told_of(tap, "down")
    t.equal(tap.counters("vhost-user")["rear-lies"], 0)
    in_guest(carry, guest, 0)


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
    """Somebody else's back end as the rear, with packed rings in passthrough; it dies and comes back."""
    pmd = t.use(Testpmd(t.folder))
    tap = t.use(Card(f"vhost-user path={pmd.socket}", t.folder, card="tap"))
    guest = t.guest(root="initramfs", extra=arguments(tap, packed=True))
    guest.check(INIT)
    ping(guest)
    mode(tap, "passthrough")
    passes_by(t, tap, guest)
    mode(tap, "interpose")
    ping(guest)
    mode(tap, "passthrough")
    flood(guest)
    pmd.kill()
    os.unlink(pmd.socket)
    wait_for("the loss", lambda: tap.counters("vhost-user")["rear-losses"] == 1)
    t.use(Testpmd(t.folder))
    wait_for("the rear to be back", lambda: "serves again" in tap.output())
    passes_by(t, tap, guest)
    t.equal(tap.counters("vhost-user")["rear-lies"], 0)
    t.equal(complaints(guest), "")


@limit(120)
def test_open_vswitch(t):
    """A port of Open vSwitch that connects to us: TCP both ways, passthrough and back, our worker's death and its own."""
    require()
    space = t.use(Namespace(t.folder))
    ovs = t.use(OpenVSwitch(t.folder, space.enter))
    port = free_socket_path(t.folder, "rear.sock")
    tap = t.use(Card(f"vhost-user path={port} listen=on", t.folder, card="tap"))
    ovs.client_port("vhost0", port)
    space.run("sh", "-c", "ip addr del 10.77.0.1/24 dev card0; ip addr add 10.77.0.1/24 dev br0; ip link set br0 up")
    guest = t.guest(root="initramfs", extra=arguments(tap))
    guest.check(INIT)
    wait_for("Open vSwitch to come", lambda: "a back end connected" in tap.output())
    ping(guest)
    transfer(t, space, guest, mib=1)
    mode(tap, "passthrough")
    passes_by(t, tap, guest)
    mode(tap, "interpose")
    ping(guest)
    tap.kill_worker()
    wait_for("Open vSwitch to come again", lambda: tap.output().count("event=rear-there") == 2)
    ping(guest)
    ovs.restart()
    wait_for("the rear to be back", lambda: "event=rear-back" in tap.output())
    space.run("sh", "-c", "ip addr add 10.77.0.1/24 dev br0; ip link set br0 up")
    ping(guest)
    t.equal(tap.counters("vhost-user")["rear-lies"], 0)
    t.equal(complaints(guest), "")
