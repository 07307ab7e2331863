"""Processes killed at each point where dying matters, one after the other, under verified load."""

import os
import re
import subprocess
import time

from devtap_test import paths, wait_for
from devtap_test.case import limit
from devtap_test.load import Load
from devtap_test.process import PATIENCE
from devtap_test.softdisk import SoftDisk

MIB = 1 << 20


def kill_points():
    """The names of all points that the source plants."""
    found = set()
    for folder in ("blk", "net", "front", "core", "vhost", "tools", "control"):
        for path in (paths.SOURCE / folder).rglob("*.c"):
            found |= set(re.findall(r'KILL_POINT\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    return sorted(found)


# State is saved at the start, too: the floor.
STARTING = ("fenced", "begin", "floor", "attach", "ring-start", "ring-started", "state-saved",
            "state-filled")
ENDING = ("ring-stop", "ring-stopped", "detach", "end")
FLOWING = ("taken", "forwarded", "completed", "pushed", "published")


def died(disk):
    """The deaths of workers so far; none while nobody can be asked."""
    try:
        return disk.events("worker-died")
    except RuntimeError:
        return []


def upgrade_soon(disk):
    """An upgrade, once the worker that may just be starting is there, and no VM on its way out."""
    def ask():
        try:
            disk.devtap("upgrade", disk.disk)
        except RuntimeError as error:
            if not re.search("under way|is leaving", str(error)):
                raise
            return False
        return True
    wait_for("an upgrade", ask)


def at_point(t, memory, name, count, folder):
    """Serves a load while two workers die at one point, one after the other."""
    image = folder / "disk.img"
    with open(image, "wb") as file:
        file.truncate(64 * MIB)
    environment = dict(os.environ, DEVTAP_KILL=f"{name}:{count}:2:{int(name in STARTING)}")
    old = dict(os.environ)
    os.environ.update(environment)
    try:
        disk = t.use(SoftDisk(f"{memory} | file path={image}", folder))
    finally:
        os.environ.clear()
        os.environ.update(old)
    load = Load(t, disk, 600 if name in ENDING + STARTING else 1)
    wait_for("a VM", lambda: disk.attached() or not load.running() or died(disk))
    if name in STARTING:
        disk.kill_worker()
        wait_for("three deaths", lambda: len(died(disk)) >= 3)
        load.stop(t)
    elif name in ENDING:
        wait_for("a VM", disk.attached)
        upgrade_soon(disk)
        upgrade_soon(disk)
        load.stop(t)
    load.judge(t, more_than=0)
    end = time.monotonic() + PATIENCE
    while name in FLOWING and len(died(disk)) < 2 and time.monotonic() < end:
        Load(t, disk, 1).judge(t, more_than=0)
    deaths = died(disk)
    upgraded = disk.events("upgraded")
    disk.stop()
    return disk.log.read_text(errors="replace").count(f"killed at {name}\n"), len(deaths), len(upgraded)


# What became of the keeper that died, or was to be replaced by one that did.
KEEPER_POINTS = {"keeper-send": "old", "keeper-sent": "old", "keeper-take": "new", "keeper-taken": "new"}


def at_keeper_point(t, name, folder):
    """Keepers die at one point of an upgrade; the next upgrade works."""
    dies = KEEPER_POINTS[name]
    os.environ["DEVTAP_KILL"] = f"{name}:1:{2 if dies == 'new' else 1}:{int(dies == 'new')}"
    try:
        disk = t.use(SoftDisk(f"file path={folder}/disk.img create=on size=64M", folder))
    finally:
        del os.environ["DEVTAP_KILL"]
    load = Load(t, disk, 600, *([] if dies == "new" else ["--reconnect"]), inflight=dies == "old")
    time.sleep(0.3)
    refused = 2 if dies == "new" else 1
    for _ in range(refused):
        disk.refuses("a keeper of the new program cannot take over", "upgrade", disk.disk)
        disk.worker()
    upgrade_soon(disk)
    result = load.stop(t, after=1)
    t.equal(len(disk.events("upgrade-refused")), refused)
    t.equal(len(disk.events("upgraded")), 1)
    t.equal(len(disk.events("keeper-died")), int(dies == "old"))
    t.equal(result.get("reconnects", 0) > 0, dies == "old", "the VM's connection ended")
    disk.stop()


def need_kill_points(t):
    """They are planted by -Dkill_points=true alone."""
    probe = subprocess.run(["grep", "-c", "ring-started", SoftDisk.binary()], stdout=subprocess.PIPE,
                           text=True, check=False)
    if probe.stdout.strip() in ("", "0"):
        t.skip("built without -Dkill_points=true")


@limit(300)
def test_keepers(t):
    """Keepers die at each point of an upgrade."""
    need_kill_points(t)
    for name in KEEPER_POINTS:
        (t.folder / name).mkdir()
        at_keeper_point(t, name, t.folder / name)


def at_points(t, points):
    """Workers die at each of these (name, count)."""
    need_kill_points(t)
    unreached = []
    memory = t.captive("memory")
    for name, count in points:
        folder = t.folder / f"{name}-{count}"
        folder.mkdir()
        reached, died, upgraded = at_point(t, memory, name, count, folder)
        t.log(f"{name}:{count}: {reached} killed there, {died} deaths, {upgraded} upgrades")
        if reached != 2:
            unreached.append((name, reached))
    t.equal(unreached, [])


@limit(900)
def test_workers(t):
    """Workers die at each point where dying matters, but for those below."""
    at_points(t, [(name, 1) for name in sorted(set(kill_points()) - set(KEEPER_POINTS) - set(FLOWING))])


@limit(900)
def test_workers_at_the_first_request(t):
    """The same, at the points on a request's way."""
    at_points(t, [(name, 1) for name in FLOWING])


@limit(900)
def test_workers_under_load(t):
    """The same, with more requests in flight."""
    at_points(t, [(name, 50) for name in FLOWING])
