"""A worker that takes the place of a dead one leaves out what it cannot open, says so once, and serves the others; what can be opened
again is served again."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess

from devtap_test import StorageDaemon, paths, wait_for
from devtap_test.card import INIT, Card, Namespace, arguments, ping, require
from devtap_test.case import limit
from devtap_test.change import change
from devtap_test.idle import Driver

MIB = 1 << 20


def events(card, kind):
    """Those of that kind, of all devices."""
    lines = card.devtap("events", "--json").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def served(card, name):
    """Can anything be said of it but that it is not served?"""
    done = subprocess.run([paths.devtap(), "show", "--json", name], env=card.environment, check=False, timeout=30,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        assert "it is not served now" in done.stderr or "restarted" in done.stderr, done.stderr
    return done.returncode == 0


@limit(240)
def test_others_go_on(t):
    """The file of a disk, that of a card that replays one, and a TAP interface are gone when the worker dies."""
    require()
    space = t.use(Namespace(t.folder))
    image = t.sparse_file(16 * MIB)
    replayed = t.folder / "replayed.pcap"
    replayed.write_bytes(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1) + struct.pack("<IIII", 1, 0, 60, 60) + bytes(60))
    chains = {"disk": f"file path={image}", "replay": f"pcap in={replayed}", "tap": "tap ifname=card1"}
    more = [word for name, chain in chains.items()
            for word in ("--disk" if name == "disk" else "--net", name, "--socket", f"{t.folder}/{name}.sock", chain)]
    card = t.use(Card(more[-1], t.folder, space.enter, ["tap ifname=card0", *more[:-1]]))
    guest = t.guest(root="initramfs", extra=arguments(card))
    guest.check(INIT)
    ping(guest)
    driver = t.use(Driver(f"{t.folder}/replay.sock"))

    os.rename(image, f"{image}.away")
    os.rename(replayed, f"{replayed}.away")
    # Its name is another kind of interface's: no TAP can be made of it.
    space.run("sh", "-ec", "ip link del card1; ip link add card1 type veth peer name other1")
    for _ in range(2):  # and the one after that has them no more
        card.kill_worker()
        wait_for("the worker to leave them out", lambda: len(events(card, "left-out")) >= 3)
        ping(guest)
    t.equal(sorted(event["device"] for event in events(card, "left-out")), sorted(chains), "told once of each")
    t.equal([served(card, name) for name in ("card", *chains)], [True, False, False, False], "served")
    listed = {each["name"]: each["attached"] for each in json.loads(card.devtap("list", "--json"))}
    t.equal(sorted(listed), sorted(["card", *chains]), "listed")
    assert listed["card"] and not listed["disk"], listed

    worker = card.show()["worker"]
    os.rename(f"{image}.away", image)
    os.rename(f"{replayed}.away", replayed)
    space.run("ip", "link", "del", "card1")
    wait_for("all of them", lambda: len(events(card, "served-again")) == 3, 120, 0.5)
    t.equal([served(card, name) for name in ("card", *chains)], [True] * 4, "served")
    t.equal(len(events(card, "left-out")), 3, "lines about it")
    assert card.show()["worker"] != worker
    ping(guest)
    assert driver, "the VM of one that was left out keeps its connection"
    done = subprocess.run([paths.devtap(), "bench", "--socket", f"{t.folder}/disk.sock", "--verify", "--time", "1"], check=False,
                          timeout=60, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    t.equal(done.returncode, 0, done.stdout)
    t.equal(card.show()["front"]["broken"], 0, "broken sessions")


@limit(60)
def test_first_start(t):
    """The first start is all or nothing: a mistake in a command line is no state to serve in."""
    image = t.sparse_file(MIB)
    done = subprocess.run([paths.devtap(), "run", "--disk", "a", "--socket", t.folder / "a.sock", f"file path={image}",
                           "--disk", "b", "--socket", t.folder / "b.sock", f"file path={image}.no"], check=False, timeout=30,
                          stderr=subprocess.PIPE, text=True, env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder)))
    assert done.returncode and done.stderr.count("\n") == 1, done.stderr


def told(disk, kind):
    """The devices of the events of that kind, in order."""
    return [event.get("device") for event in events(disk, kind)]


def out(disk, names):
    """Kills the worker and waits until all of these are told to be left out, and another worker serves."""
    before = disk.kill_worker()
    wait_for("the worker to leave them out", lambda: sorted(told(disk, "left-out")) == sorted(names))
    wait_for("another worker", lambda: (disk.answer() or {}).get("worker") not in (None, 0, before))


def three(t):
    """Disks vm1, a and b, of which a and b are out: their images have gone away."""
    images = {name: t.sparse_file(MIB, f"{name}.img") for name in ("vm1", "a", "b")}
    disk = t.soft_disk(f"file path={images['vm1']}", more={name: f"file path={images[name]}" for name in "ab"})
    for name in "ab":
        os.rename(images[name], f"{images[name]}.away")
    out(disk, "ab")
    return disk, images


def processes(fits):
    """The folders in /proc of processes whose words fit."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if fits(path.read_text(encoding="utf-8", errors="replace").split("\0")):
                found.append(path.parent)
        except OSError:  # it has ended
            pass
    return found


def attempts(t, number):
    """Processes that try to open the disk of that number."""
    return processes(lambda words: words[1:2] == [f"attempt-{number}"] and any(str(t.folder) in word for word in words))


def users(program):
    """Those of the processes that run it."""
    found = set()
    for folder in processes(lambda words: str(program) in words):
        try:
            status = (folder / "status").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        found.add(int(re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE).group(1)))
    return found


def come_back(disk, images, name, before):
    """The image is there again, and so is its disk."""
    os.rename(f"{images[name]}.away", images[name])
    wait_for(f"{name} to be served again", lambda: told(disk, "served-again") == [*before, name], 120, 0.2)


@limit(240)
def test_one_by_one(t):
    """The worker that takes over for one that came back is no reason to give up the other; nor is a second time."""
    disk, images = three(t)
    come_back(disk, images, "a", [])
    come_back(disk, images, "b", ["a"])
    t.equal(sorted(told(disk, "left-out")), ["a", "b"], "left out")
    os.rename(images["a"], f"{images['a']}.away")
    out(disk, "aab")
    come_back(disk, images, "a", ["a", "b"])


@limit(240)
def test_changes_meanwhile(t):
    """Neither are workers that take over for other reasons."""
    disk, images = three(t)
    outcome = change(disk, "insert", "top", f"trace out={t.folder}/t")
    t.equal(outcome["outside"], "trace")
    disk.devtap("upgrade", "vm1")
    t.equal(sorted(told(disk, "left-out")), ["a", "b"], "told once")
    come_back(disk, images, "b", [])
    change(disk, "remove", "trace")
    come_back(disk, images, "a", ["b"])


@limit(240)
def test_locked(t):
    """An image that another program has locked is there, and cannot be opened: no worker takes over for it."""
    disk, images = three(t)
    worker = disk.worker()
    with StorageDaemon(f"{images['a']}.away", t.folder):
        os.rename(f"{images['a']}.away", images["a"])
        for _ in range(2):
            wait_for("an attempt with it", lambda: attempts(t, 1))
            wait_for("the attempt's end", lambda: not attempts(t, 1))
        t.equal(disk.worker(), worker, "the worker after attempts in vain")
        come_back(disk, images, "b", [])
        t.equal(len(told(disk, "upgrade-begun")), 1, "workers that took over")
    wait_for("a to be served again", lambda: told(disk, "served-again") == ["b", "a"], 120, 0.2)
    t.equal(len(told(disk, "upgrade-begun")), 2, "workers that took over")


@limit(240)
def test_stuck_attempt(t):
    """An attempt that gets nowhere is given up, so that others are made; and is in nobody's way at the end."""
    disk, images = three(t)

    def stop_one():
        """Return: is an attempt with disk a at a halt?"""
        for folder in attempts(t, 1):
            with contextlib.suppress(OSError):  # it has ended
                os.kill(int(folder.name), signal.SIGSTOP)
                return re.search(r"^State:\s+T", (folder / "status").read_text(encoding="ascii"), re.MULTILINE)
        return None

    with StorageDaemon(f"{images['a']}.away", t.folder):
        os.rename(f"{images['a']}.away", images["a"])
        wait_for("an attempt that hangs", stop_one)
        come_back(disk, images, "b", [])
        with t.waiting():
            wait_for("another", stop_one)
        t.equal(disk.stop(), 0, "the status of one that is told to end")


@limit(240)
def test_extension_confined(t):
    """The program of an extension that an attempt starts has a user of its own, as one that a worker starts."""
    if os.geteuid():
        t.skip("not root")
    build = pathlib.Path(paths.devtap()).resolve().parents[1]
    os.environ["PYTHONPATH"] = str(paths.SOURCE / "python")
    os.environ["DEVTAP_CHANNEL_LIBRARY"] = str(build / "channel/libdevtap-channel.so")
    extension = shutil.copy(paths.SOURCE / "examples/fault.py", t.folder)
    for folder in (t.folder, *t.folder.parents):  # which users of their own are to look into
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    image = t.sparse_file(MIB, "a.img")
    disk = t.soft_disk(f"file path={t.sparse_file(MIB)}", more={"a": f"{extension} deadline=120s | file path={image}"})
    wait_for("the worker's extension", lambda: users(extension))
    os.rename(image, f"{image}.away")
    out(disk, "a")
    wait_for("its end", lambda: not users(extension))
    with StorageDaemon(f"{image}.away", t.folder):
        os.rename(f"{image}.away", image)
        seen = set()
        for _ in range(2):
            wait_for("an attempt with it", lambda: attempts(t, 1))
            while attempts(t, 1):
                seen |= users(extension)
    assert seen and 0 not in seen, seen
