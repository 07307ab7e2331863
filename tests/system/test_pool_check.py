"""`cvd pool check` of a pool that is being served: nothing is found where nothing is wrong, what is wrong is named, and
the check ends where it must, never the guests."""

import json
import os
import random
import re
import signal
import subprocess
import time

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.load import Load
from devtap_test.pool import PoolProcess, binary, check, cvd
from devtap_test.poolfile import BLOCK, PoolFile

MIB = 1 << 20


def chain(pool, name, more=""):
    return f"cvd pool={pool} name={name} {more}"


def make_pool(t, size="1G"):
    """A pool with a labelled template that holds random bytes, served."""
    pool, image = t.folder / "pool", t.folder / "image"
    image.write_bytes(random.Random(7).randbytes(8 * MIB))
    cvd("pool", "create", pool, "--size", size)
    cvd("create", f"{pool}/base", "--size", "64M")
    cvd("fill", f"{pool}/base", image)
    cvd("snap", f"{pool}/base", "--name", "v1")
    cvd("label", f"{pool}/base@v1")
    return pool, t.use(PoolProcess(pool, t.folder))


def info(pool):
    return json.loads(cvd("pool", "info", pool, "--json"))


def begin(pool, *options):
    """A check in the background, once it reads; on a busy machine it may be over then."""
    child = subprocess.Popen([binary(), "pool", "check", pool, "--data", *options], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for("the pin", lambda: info(pool).get("pin", {}).get("root") or child.poll() is not None)
    return child


def begin_slowly(pool):
    """The same of one that does not come to its end in any test's time."""
    child = begin(pool, "--rate", "64K")
    assert child.poll() is None, child.communicate()
    return child


def no_pin(pool):
    wait_for("the end of the pin", lambda: "pin" not in info(pool))


@limit(90)
def test_beside_guests(t):
    """Disks are written, verified, snapshotted, cloned and deleted; each check finds nothing, and costs no guest its life."""
    pool, process = make_pool(t)
    cvd("dup", f"{pool}/base@v1", "vm", "--count", 2)
    disk = t.soft_disk(chain(pool, "vm1"), disk="vm1", more={"vm2": chain(pool, "vm2")})
    loads = [Load(t, disk, 3600, "--sleep", "--depth", "8", name=n) for n in ("vm1", "vm2")]
    checks = changes = 0
    end = time.monotonic() + 4
    while time.monotonic() < end:
        child = begin(pool, "--json", "--rate", "32M", "--memory", "1M")
        while child.poll() is None:
            changes += 1
            cvd("snap", f"{pool}/vm1", f"{pool}/vm2", "--name", f"s{changes}")
            cvd("dup", f"{pool}/base@v1", f"c{changes}")
            if changes % 3 == 0:
                cvd("delete", f"{pool}/vm1@s{changes}")
                cvd("delete", f"{pool}/c{changes}")
        found = json.loads(child.stdout.read())
        t.equal(child.returncode, 0, child.stderr.read())
        t.equal((found["findings"], found["served"]), ([], True))
        checks += 1
    t.log(f"{checks} checks, {changes} changes")
    child = begin_slowly(pool)
    wait_for("space that is held", lambda: info(pool)["pin"]["held"] > 0)
    child.kill()
    child.wait()
    no_pin(pool)
    for load in loads:
        load.stop(t)
    disk.stop()
    process.stop()
    found = check(pool)
    t.equal(found["served"], False)


@limit(60)
def test_how_it_ends(t):
    """A checker is killed, a second one refused; the pool's process is killed, closed, and gets full."""
    pool, process = make_pool(t, "64M")
    child = begin_slowly(pool)
    text = cvd("pool", "check", pool, status=4)
    assert f"cvd pool check (pid {child.pid})" in text, text
    assert f"cvd pool check (pid {child.pid})" in cvd("pool", "info", pool)
    child.kill()
    child.wait()
    no_pin(pool)

    child = begin_slowly(pool)
    os.kill(process.worker(), signal.SIGKILL)
    text = child.communicate(timeout=120)
    t.equal(child.returncode, 1, str(text))
    assert "started again" in text[1], text
    t.equal(text[0], "")
    check(pool)  # by the next worker

    cvd("create", f"{pool}/vm", "--size", "40M")
    disk = t.soft_disk(chain(pool, "vm"))
    t.equal(disk.bench("--rw", "write", "--size", "256K", "--time", "1s", "--min-requests", "200")["errors"], 0)
    child = begin_slowly(pool)
    load = Load(t, disk, 3600, "--sleep", "--rw", "write", "--size", "64K")
    text = child.communicate(timeout=120)
    t.equal(child.returncode, 1, str(text))
    assert "nearly full" in text[1], text
    no_pin(pool)
    load.stop(t)
    t.equal(disk.events("full"), [])
    disk.stop()

    child = begin_slowly(pool)
    cvd("pool", "close", pool)
    text = child.communicate(timeout=120)
    t.equal(child.returncode, 1, str(text))
    check(pool)


@limit(60)
def test_rot(t):
    """A bit of a template's data, and one of its maps, are named while its clones are in use."""
    pool, process = make_pool(t, "256M")
    cvd("dup", f"{pool}/base@v1", "vm", "--count", 3)
    disk = t.soft_disk(chain(pool, "vm1"), disk="vm1")
    load = Load(t, disk, 3600, "--sleep")
    image = (t.folder / "image").read_bytes()
    file = PoolFile(pool)
    data = file.find(image[100 * BLOCK:101 * BLOCK])
    node = file.at(file.disk("base"), 100, 1)  # as all of them have it
    file.flip(data)
    found = subprocess.run([binary(), "pool", "check", pool, "--data", "--json"], check=False,
                           capture_output=True, text=True, timeout=120)
    t.equal(found.returncode, 6, found.stderr)
    result = json.loads(found.stdout)
    t.equal(result["damaged"], 1)
    text = result["findings"][0]
    assert f"block {data} at {100 * BLOCK} bytes" in text, text
    for name in ("base", "base@v1", "vm2", "vm3"):
        assert re.search(fr"\b{name}\b", text), text
    t.equal(json.loads(cvd("pool", "check", pool, "--data=off", "--json"))["findings"], [])
    file.flip(data)
    file.flip(node)
    text = subprocess.run([binary(), "pool", "check", pool], check=False, capture_output=True,
                          text=True, timeout=120)
    t.equal(text.returncode, 6, text.stderr)
    assert f"the node in block {node} is damaged" in text.stdout and "vm3" in text.stdout, text
    file.flip(node)
    load.stop(t)
    disk.stop()
    process.stop()
    check(pool)
