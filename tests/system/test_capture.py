"""What a real guest sends and receives, captured by a confined worker, read back by tcpdump, and replayed."""

import os
import re
import shutil
import struct
import subprocess

from devtap_test import wait_for
from devtap_test.card import Card, large_capture, ping, start
from devtap_test.case import Skip, limit


def read(path):
    """The lines that tcpdump makes of a file."""
    done = subprocess.run(["tcpdump", "-ntvr", path], check=True, timeout=120, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert "truncated" not in done.stdout + done.stderr, done
    return done.stdout


@limit(120)
def test_ping_and_kill(t):
    """Every packet of a ping is there, once; a worker's death costs no packet that was written, nor the file."""
    if not shutil.which("tcpdump"):
        raise Skip("no tcpdump (scripts/deps test)")
    path = t.folder / "card.pcapng"
    _space, card, guest = start(t, f"capture out={path} match=icmp | tap ifname=card0")
    ping(guest)
    wait_for("three pings in the file", lambda: read(path).count("echo reply") == 3)
    card.kill_worker()
    ping(guest)
    wait_for("six pings in the file", lambda: read(path).count("echo reply") == 6)
    text = read(path)
    t.equal(text.count("echo request"), 6, "requests")
    t.equal(len(re.findall(r"10\.77\.0\.2 > 10\.77\.0\.1: ICMP echo request", text)), 6, "the guest's")
    t.equal(card.counters("capture")["dropped"], 0, "dropped")


@limit(120)
def test_file_too_large(t):
    """The file has the largest size that the worker may write: the card is served all the same. In a namespace of its own a worker
    would not die of the signal in any case."""
    path, frames = t.folder / "card.pcapng", t.folder / "frames.pcap"
    size = large_capture(path)
    write_pcap(frames, 1)
    card = t.use(Card(f"capture out={path} | pcap in={frames}", t.folder, ["prlimit", f"--fsize={size}"], ["--sandbox=off"]))
    assert "capture-failed" in card.devtap("events", "card")
    t.equal(path.stat().st_size, size, "bytes")


@limit(120)
def test_fifo(t):
    """A program reads the FIFO while the card works, goes away, and another one comes."""
    if not shutil.which("tcpdump"):
        raise Skip("no tcpdump (scripts/deps test)")
    fifo = t.folder / "fifo"
    os.mkfifo(fifo)
    _space, _card, guest = start(t, f"capture out={fifo} match=icmp | tap ifname=card0")
    ping(guest, 1)
    for _ in range(2):
        with subprocess.Popen(["tcpdump", "-ntr", fifo, "-c", "4"], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL) as reader:
            try:
                while reader.poll() is None:  # it may be slow to begin, and sees what comes afterwards
                    ping(guest, 4)
                output, _ = reader.communicate(timeout=120)
            finally:
                reader.kill()
        t.equal(output.count("ICMP echo"), 4, output)


@limit(120)
def test_filter(t):
    """What is filtered does not arrive, until the filter is changed from outside."""
    _space, card, guest = start(t, "filter match='icmp[icmptype] = icmp-echo' direction=tx | tap ifname=card0")
    assert guest.run("ping -c 2 -i 0.2 -W 1 10.77.0.1")[0] != 0, "it was answered"
    t.equal(card.counters("filter")["denied-tx"], 2, "dropped")
    card.devtap("set", "card", "filter", "match=tcp port 9")
    ping(guest)
    try:
        card.devtap("set", "card", "filter", "match=tcp port (")
        raise AssertionError("a wrong expression was taken")
    except subprocess.CalledProcessError:
        ping(guest)


def write_pcap(path, frames):
    """A pcap file of broadcast frames, one ms apart."""
    with open(path, "wb") as to:
        to.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
        for i in range(frames):
            frame = b"\xff" * 6 + b"\x52\x54\0\0\0\x09" + b"\x88\xb5" + bytes(46 + i)
            to.write(struct.pack("<IIII", 1000, i * 1000, len(frame), len(frame)) + frame)


def received(guest):
    """How many frames the guest's card has received."""
    return int(guest.check("cat /sys/class/net/eth0/statistics/rx_packets"))


def received_all(guest):
    """The same, once nothing comes any more: what the card has put into the ring a busy guest takes later."""
    seen = []

    def rests():
        seen.append(received(guest))
        return seen[-2:-1] == seen[-1:]
    wait_for("the guest to have taken all", rests, interval=1.0)
    return seen[-1]


@limit(120)
def test_replay(t):
    """A guest receives what a file has, as often as told, without one missing."""
    path = t.folder / "frames.pcap"
    write_pcap(path, 400)
    _space, card, guest = start(t, f"pcap in={path} speed=10 loop=3")
    wait_for("the end of the file", lambda: card.counters("pcap")["rounds"] == 3)
    before = received_all(guest)
    card.devtap("do", "card", "pcap", "restart")  # its interface is up now, for certain
    wait_for("the end of the file", lambda: card.counters("pcap")["rounds"] == 6)
    t.equal(card.counters("pcap")["replayed"], 2400, "replayed")
    wait_for("1200 frames in the guest", lambda: received(guest) - before >= 1200)
    t.equal(received_all(guest) - before, 1200, "frames in the guest")
