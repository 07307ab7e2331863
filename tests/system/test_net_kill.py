"""The worker of a card is killed again and again while iperf3 sends through it: what the guest and its VMM notice of it.

DEVTAP_NET_KILLS says how often, without a limit and then with one. Every death is made good and traffic resumes, whatever the
machine does; how soon is printed, and judged where DEVTAP_NET_PAUSE_MS has a bound for the 99th percentile, since the time
that a busy machine takes says nothing.
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

KILLS = int(os.environ.get("DEVTAP_NET_KILLS", "6"))
HOST = "10.77.0.1"
BOUND_MS = float(os.environ.get("DEVTAP_NET_PAUSE_MS", "inf"))
RATE, BURST = 16_000_000, 1  # bits a second; seconds, so that a burst anew for each worker would show
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


class Recoveries:
    """The events of that kind, of which a card keeps the last ones only."""

    def __init__(self, card):
        self.card, self.seen, self.all = card, 0, []

    def collect(self):
        """Reads what is new; returns how many there are by now."""
        try:
            lines = self.card.devtap("events", "--json", self.card.card).splitlines()
        except subprocess.CalledProcessError:
            lines = []  # nobody to ask just now
        for event in map(json.loads, lines):
            if event["number"] > self.seen:
                self.seen = event["number"]
                if event["event"] == "recovered":
                    self.all.append(event)
        return len(self.all)


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


# Transfers of some seconds, one after the other; what each brought over, or what it said when it failed.
TRANSFERS = f"""
rm -f /tmp/stop /tmp/bytes /tmp/failed /tmp/done
while [ ! -e /tmp/stop ]; do
    iperf3 -c {HOST} -t 5 -J >/tmp/said || {{ cp /tmp/said /tmp/failed; break; }}
    sed -n '/sum_received/,/}}/s/.*"bytes":[^0-9]*\\([0-9]*\\).*/\\1/p' /tmp/said >>/tmp/bytes
done
touch /tmp/done
"""


def arrived(space):
    """Bytes of frames that the guest's interface has handed to the host."""
    [link] = json.loads(space.run("ip", "-s", "-j", "link", "show", "card0"))
    return link["stats64"]["rx"]["bytes"]


def longest(lines, begin, end):
    """ms of the longest pause that has to do with those times; 0: none was longer than 2 ms."""
    pauses = [(float(a), float(b)) for a, b in (line.split() for line in lines)]
    return max((1e3 * (b - a) for a, b in pauses if b > begin and a < end), default=0.0)


def kill_some(space, card, recoveries):
    """KILLS workers at random moments of a transfer, each of which has served; returns when."""
    generator, kills, killed = random.Random(1), [], set()
    before = recoveries.collect()
    for number in range(KILLS):
        wait_for("a worker", lambda: alive(card) not in (None, *killed))
        worker = alive(card)
        kills.append(time.monotonic())
        os.kill(worker, signal.SIGKILL)
        killed.add(worker)
        wait_for("the rings to run again", lambda count=number: recoveries.collect() > before + count, 60, 0.05)
        had = arrived(space)
        wait_for("traffic", lambda bytes=had: arrived(space) > bytes + SUPER_FRAME // 8, 60, 0.02)
        time.sleep(generator.uniform(0.05, 0.25))
    assert len(killed) == KILLS, f"{len(killed)} workers, {KILLS} kills"
    return kills


def transfer(space, card, guest, recoveries):
    """By iperf3 as long as the kills last; returns when these were, bits that arrived, and seconds."""
    had, begin = arrived(space), time.monotonic()
    guest.check(f"cat >/tmp/transfers.sh <<'SH'\n{TRANSFERS}\nSH\n(sh /tmp/transfers.sh >/dev/null 2>&1 &)")
    wait_for("traffic", lambda: arrived(space) > had + (1 << 20), 60)
    kills = kill_some(space, card, recoveries)
    guest.check("touch /tmp/stop; while ! [ -e /tmp/done ]; do sleep 0.2; done", timeout=90)
    seconds = time.monotonic() - begin
    failed = guest.run("cat /tmp/failed")[1][-500:] if guest.run("[ -e /tmp/failed ]")[0] == 0 else ""
    assert not failed, failed
    return kills, 8 * sum(map(int, guest.check("cat /tmp/bytes").split())), seconds


def kill_workers(t, space, card, guest, recoveries):
    """At random moments of a transfer; what each cost the guest. Returns the bits a second that came through."""
    with subprocess.Popen([*space.enter, "python3", "-c", WATCH], text=True, stdout=subprocess.PIPE) as watch:
        watch.stdout.readline()
        kills, bits, seconds = transfer(space, card, guest, recoveries)
        watch.kill()
        lines = [line for line in watch.stdout.read().split("\n") if line.count(" ") == 1]
    t.log(f"{KILLS} kills in {seconds:.0f} s, {bits / seconds / 1e6:.0f} Mbit/s")
    # TCP that lost what the dead worker had waits before it repeats it, which is its own time.
    percentiles(t, f"{KILLS} kills, no frame from the guest for", [longest(lines, kill, kill + 0.2) for kill in kills])
    return bits / seconds


def alive(card):
    """The worker's id; None while there is none to ask."""
    try:
        return card.show().get("worker")
    except subprocess.CalledProcessError:
        return None


def limits(t, space, card, guest, recoveries, rate):
    """A limit is one for all workers together: a new one begins without a burst, and what the dead one owed was a super-frame or two."""
    card.devtap("set", card.card, "rate", f"burst={BURST}s")
    card.devtap("set", card.card, "rate", f"tx-bits={RATE}")
    _, bits, seconds = transfer(space, card, guest, recoveries)
    most = RATE * (seconds + BURST) + (KILLS + 1) * 2 * SUPER_FRAME
    t.log(f"{KILLS} kills in {seconds:.0f} s, {bits / seconds / RATE:.3f} of the limit used, {bits / most:.3f} of what it allows")
    assert bits <= most, f"{bits} bits in {seconds} s, and the limit allows {most:.0f}"
    least = min(RATE, rate) / 4  # the machine may have no more to give
    assert bits >= least * seconds, f"{bits} bits in {seconds} s: hardly anything went on"


@limit(240 + 8 * KILLS)
def test_iperf(t):
    """The transfers end well, the guest's driver and the VMM say nothing, the limit holds, and every death was made good."""
    space, card, guest = start(t)
    recoveries = Recoveries(card)
    rate = kill_workers(t, space, card, guest, recoveries)
    limits(t, space, card, guest, recoveries, rate)
    t.equal(recoveries.collect(), 2 * KILLS, "deaths that were made good")
    pauses = [event["pause_ns"] / 1e6 for event in recoveries.all if event["rings"]]
    t.equal(len(pauses), 2 * KILLS, "of these, with rings")
    p99 = percentiles(t, "rings stood still for", pauses)
    assert p99 < BOUND_MS, f"p99 of the pause is {p99:.1f} ms"
    t.equal(guest.run("dmesg | grep -i 'NETDEV WATCHDOG\\|virtio.*error\\|not a head'")[0], 1, "complaints")
    t.equal(guest.process.output().strip(), "", "what QEMU says")
    t.equal(card.show()["front"]["broken"], 0, "broken sessions")
    guest.check(f"ping -c 2 -i 0.2 -W 5 {HOST}")
