"""The worker of a card is killed again and again while iperf3 sends through it: what the guest and its VMM notice of it.

DEVTAP_NET_KILLS says how often; the pauses are printed, and not judged.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time

from devtap_test import wait_for
from devtap_test.card import INIT, Card, Namespace, arguments, require
from devtap_test.case import Skip, limit
from devtap_test.load import percentiles
from devtap_test.process import Process
from devtap_test.toolbox import initramfs_with

KILLS = int(os.environ.get("DEVTAP_NET_KILLS", "8"))
HOST = "10.77.0.1"
RATE, BURST = 16_000_000, 1  # bits a second; seconds, so that a burst anew for each worker would show
LIMITED_SECONDS, LIMITED_KILLS = 6, 4
SUPER_FRAME = 65536 * 8

# When each frame of the guest's came to the interface: a line of milliseconds for each pause longer than that.
WATCH = """
import socket, sys, time
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind(("card0", 0))
sock.settimeout(0.5)
print("listens", flush=True)
last = None
while True:
    try:
        _, address = sock.recvfrom(64)
    except TimeoutError:
        continue
    if address[2] == socket.PACKET_OUTGOING:
        continue
    now = time.monotonic()
    if last and now - last > 0.002:
        print(f"{last:.6f} {now:.6f}", flush=True)
    last = now
"""


def recovered(card):
    """The events of that kind."""
    events = [json.loads(line) for line in card.devtap("events", "--json", card.card).splitlines()]
    return [event for event in events if event["event"] == "recovered"]


def last_recovery(card):
    """The number of the last such event; 0: there is none, or nobody to ask."""
    try:
        return max((event["number"] for event in recovered(card)), default=0)
    except subprocess.CalledProcessError:
        return 0


def start(t):
    """A guest with iperf3 behind a rate limit that is open yet, and a server of it."""
    require()
    if not shutil.which("iperf3"):
        raise Skip("no iperf3 (scripts/deps test)")
    space = t.use(Namespace(t.folder))
    card = t.use(Card("rate | tap ifname=card0", t.folder, space.enter))
    tools = initramfs_with(t.folder, ["iperf3"])
    # Without reconnect: a VMM that lost its back end would say so, and the card would be dead.
    words = [word.replace(",reconnect=1", "") for word in arguments(card)]
    guest = t.guest(root="initramfs", extra=["-initrd", tools, *words])
    guest.check(INIT)
    t.use(Process([*space.enter, "iperf3", "-s", "--forceflush"], t.folder, name="iperf3", ready_line="listening"))
    return space, card, guest


def send(guest, seconds):
    """Begins to, and returns when bytes flow."""
    guest.check(f"rm -f /tmp/said; (iperf3 -c {HOST} -t {seconds} -J > /tmp/iperf; echo $? > /tmp/said) > /dev/null 2>&1 &")


def result(guest, seconds):
    """What iperf3 says of it: bytes received, and in how many seconds."""
    guest.check("while ! [ -s /tmp/said ]; do sleep 0.2; done", timeout=seconds + 240)
    said = guest.check("cat /tmp/iperf")
    assert guest.check("cat /tmp/said").strip() == "0", said[-500:]
    end = json.loads(said)["end"]["sum_received"]
    return end["bytes"], end["seconds"]


def longest(lines, begin, end):
    """ms of the longest pause that has to do with those times; 0: none was longer than 2 ms."""
    pauses = [(float(a), float(b)) for a, b in (line.split() for line in lines)]
    return max((1e3 * (b - a) for a, b in pauses if b > begin and a < end), default=0.0)


def kill_workers(t, space, card, guest):
    """At random moments of a transfer; what each cost the guest."""
    generator, kills, killed = random.Random(1), [], set()
    seconds = int(KILLS * 0.6) + 3
    with subprocess.Popen([*space.enter, "python3", "-c", WATCH], text=True, stdout=subprocess.PIPE) as watch:
        watch.stdout.readline()
        before = card.ops("tap", "transmit")["bytes"]
        send(guest, seconds)
        wait_for("traffic", lambda: card.ops("tap", "transmit")["bytes"] > before + (1 << 20))
        for _ in range(KILLS):
            wait_for("a worker", lambda: alive(card) not in (None, *killed))
            worker, before = alive(card), last_recovery(card)
            kills.append(time.monotonic())
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
            wait_for("its successor to serve", lambda n=before: last_recovery(card) > n)
            time.sleep(generator.uniform(0.2, 0.4))
        size, took = result(guest, seconds)
        watch.kill()
        lines = watch.stdout.read().split("\n")
    assert size > 1 << 19, size
    t.equal(len(killed), KILLS, "workers")
    pauses = [longest([line for line in lines if line.count(" ") == 1], kill, kill + 0.2) for kill in kills]
    percentiles(t, f"{KILLS} kills, no frame from the guest for", pauses)
    return size * 8 / took


def alive(card):
    """The worker's id; None while there is none to ask."""
    try:
        return card.show().get("worker")
    except subprocess.CalledProcessError:
        return None


def limits(t, card, guest, rate):
    """A limit is one for all workers together: a new one begins without a burst, and what the dead one owed was a super-frame or two."""
    card.devtap("set", card.card, "rate", f"burst={BURST}s")
    card.devtap("set", card.card, "rate", f"tx-bits={RATE}")
    send(guest, LIMITED_SECONDS)
    for _ in range(LIMITED_KILLS):
        time.sleep(LIMITED_SECONDS / (LIMITED_KILLS + 1))
        before = last_recovery(card)
        card.kill_worker()
        wait_for("its successor to serve", lambda n=before: last_recovery(card) > n)
    size, seconds = result(guest, LIMITED_SECONDS)
    bits = size * 8
    t.log(f"{LIMITED_KILLS} kills, {bits / seconds / RATE:.2f} of the limit used")
    most = RATE * (seconds + BURST) + (LIMITED_KILLS + 1) * 2 * SUPER_FRAME
    assert bits <= most, f"{bits} bits in {seconds} s, and the limit allows {most:.0f}"
    least = min(RATE, rate) / 4  # the machine may have no more to give
    assert bits >= least * seconds, f"{bits} bits in {seconds} s: hardly anything went on"


@limit(300)
def test_iperf(t):
    """The transfers end well, the guest's driver and the VMM say nothing, the limit holds, and every death was made good."""
    space, card, guest = start(t)
    rate = kill_workers(t, space, card, guest)
    limits(t, card, guest, rate)
    events = recovered(card)
    percentiles(t, "rings stood still for", [event["pause_ns"] / 1e6 for event in events if event["rings"]])
    assert len(events) >= min(KILLS + LIMITED_KILLS, 16), len(events)  # the ring of events is not endless
    t.equal(guest.run("dmesg | grep -i 'NETDEV WATCHDOG\\|virtio.*error\\|not a head'")[0], 1, "complaints")
    t.equal(guest.process.output().strip(), "", "what QEMU says")
    t.equal(card.show()["front"]["broken"], 0, "broken sessions")
    guest.check(f"ping -c 2 -i 0.2 -W 30 {HOST}")
