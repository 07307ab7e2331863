"""A pool: a template, 500 clones, snapshots by a schedule, a mistake found by bisection and undone."""

import json
import subprocess
import time

from devtap_test import Disk, Guest, SoftDisk, paths
from devtap_test.pool import PoolProcess, binary, check, cvd

from show import show, step

CLONES = 500
ROOT_AT = 9 << 20  # the root file system in the image: scripts/guest/disk.sh

ORDERS = """cat >/root/shop <<'END'
n=0
while sleep 0.2; do n=$((n + 1)); echo "order $n" >>/root/orders; sync -f /root/orders; done
END
sh /root/shop >/dev/null 2>&1 & echo $! >/run/shop.pid"""

MISTAKE = "sed -i '/order 1$/,/order 9$/d' /root/orders; sync"

# Of a state, which is an NBD export.
PROBE = """nbdcopy "$CVD_URI" {copy} && debugfs -R 'cat /root/orders' '{copy}?offset={at}' 2>/dev/null | grep -qx 'order 1'"""


def timed(folder, *words):
    """Runs a command of cvd, and shows it, without the folder, with how long it took."""
    begun = time.monotonic()
    cvd(*words)
    line = " ".join(str(word).replace(f"{folder}/", "") for word in words)
    show(f"cvd {line:<66} {(time.monotonic() - begun) * 1000:6.0f} ms")


def template(folder, image):
    """A pool with the image as a template, and clones of it."""
    pool = folder / "pool"
    step(f"a pool: Debian's image becomes a template with {CLONES} clones")
    timed(pool.parent, "pool", "create", pool, "--size", "8G")
    timed(pool.parent, "create", f"{pool}/debian", "--size", "2G")
    timed(image.parent, "fill", f"{pool}/debian", image)
    timed(pool.parent, "snap", f"{pool}/debian", "--name", "bookworm")
    timed(pool.parent, "label", f"{pool}/debian@bookworm")
    timed(pool.parent, "dup", f"{pool}/debian@bookworm", "vm", "--count", CLONES)
    return pool


def boot(stack, folder, pool, name):
    """Boots a guest from the clone vm7, which the pool's process serves."""
    disk = stack.enter_context(SoftDisk(f"cvd pool={pool} name=vm7", folder, disk="vm7", name=name))
    guest = stack.enter_context(Guest([Disk(disk.socket)], root="image", smp=2, folder=folder, name=f"{name}-guest",
                                      wait=False))
    guest.console.expect("login: root", 180)
    guest.wait_for_shell(60)
    show(f"vm7 is up after {guest.boot_seconds:.1f} s")
    return disk, guest


def orders(guest):
    """The first and the last of them."""
    return guest.check("sed -n '1p;$p' /root/orders").split("\n")


def work(guest, pool):
    """The guest takes orders, while snapshots are taken, until somebody makes a mistake and somebody notices."""
    step("the guest takes orders; a schedule takes a snapshot every second; then somebody makes a mistake")
    guest.check(ORDERS)
    time.sleep(2)
    cvd("snap", f"{pool}/vm7", "--name", "begun")
    timed(pool.parent, "schedule", f"{pool}/vm7", "every=1s", "keep=1h:all")
    time.sleep(5)
    guest.check(MISTAKE)
    time.sleep(4)
    guest.check("kill $(cat /run/shop.pid)")
    cvd("schedule", f"{pool}/vm7", "off")
    cvd("snap", f"{pool}/vm7", "--name", "noticed")
    show(f"the orders are now: {' ... '.join(orders(guest))}")
    taken = json.loads(cvd("snaps", f"{pool}/vm7", "--json"))
    show(f"{len(taken)} snapshots were taken meanwhile")


def bisect(pool, copy):
    """Finds the snapshots around the mistake, with the VM still running."""
    step("find it: cvd bisect vm7@begun @noticed -- PROBE, where PROBE reads the file in each state")
    done = subprocess.run([binary(), "bisect", f"{pool}/vm7@begun", "@noticed", "--json", "--", "sh", "-c",
                           PROBE.format(copy=copy, at=ROOT_AT)], capture_output=True, text=True, check=True,
                          timeout=300)
    show("\n".join(line for line in done.stderr.splitlines() if line.startswith("probe ")))
    copy.unlink()
    return json.loads(done.stdout)


def undo(pool, found):
    """Goes back to the last good snapshot; later ones go."""
    step(f"undo it: back to vm7{found['good']}")
    if found["bad"] != "@noticed":
        timed(pool.parent, "collapse", f"{pool}/vm7{found['bad']}", "@noticed")
    timed(pool.parent, "delete", f"{pool}/vm7@noticed")
    timed(pool.parent, "rollback", f"{pool}/vm7{found['good']}")


def story(stack, folder, image):
    """The whole of it."""
    pool = template(folder, image)
    process = stack.enter_context(PoolProcess(pool, folder))
    step("boot one of the clones")
    disk, guest = boot(stack, folder, pool, "first")
    work(guest, pool)
    found = bisect(pool, folder / "state.img")
    guest.power_off()
    disk.stop()
    undo(pool, found)
    disk, guest = boot(stack, folder, pool, "second")
    show(f"the orders are: {' ... '.join(orders(guest))}")
    assert orders(guest)[0] == "order 1", "the first order is lost"
    step("what stands on what: cvd tree")
    cvd("label", f"{pool}/vm7{found['good']}", "whole")
    cvd("dup", f"{pool}/vm7@whole", "vm7-copy", "--count", 2)
    show(cvd("tree", pool))
    picture = paths.SOURCE / "build/demo-pool.svg"
    picture.write_text(cvd("tree", pool, "--format", "svg"))
    show(f"as a picture: {picture}")
    guest.power_off()
    disk.stop()
    process.stop()
    check(pool)
    show("cvd pool check: every checksum of data and maps agrees")
