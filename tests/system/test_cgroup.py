"""`devtap run --weight` on a kernel that delegates processor time and I/O: a guest's, as the hosts of tests rarely do."""

import json
import shlex

from devtap_test import paths, wait_for
from devtap_test.case import limit
from devtap_test.toolbox import initramfs_with

GROUPS = "/sys/fs/cgroup"
MACHINES = f"{GROUPS}/machines"  # where many VMs have their workers
SERVICE = f"{GROUPS}/service"  # what a service manager delegates to a user
DEVTAP = "DEVTAP_RUNTIME_DIR=/tmp/run devtap"
USER = "/usr/bin/setpriv --reuid=1000 --regid=1000 --clear-groups"

PREPARE = f"""
mount -t cgroup2 none {GROUPS}
insmod /root/bfq.ko
echo '+cpu +io' >{GROUPS}/cgroup.subtree_control
mkdir {MACHINES} {SERVICE} /tmp/run
chown 1000:1000 {SERVICE} {SERVICE}/cgroup.procs {SERVICE}/cgroup.subtree_control /tmp/run
"""


class Inner:
    """`devtap run` within the guest, with one disk. before: commands of its shell. user: a command that runs it."""

    def __init__(self, guest, name, options, before="", user=""):
        self.guest, self.name = guest, name
        line = (f"{before} exec {user} env {DEVTAP} run {options} --disk {name} --socket /tmp/run/{name} "
                "'delay place=process | mem size=16M'")
        self.pid = int(guest.check(f"sh -c {shlex.quote(line)} >/tmp/{name}.log 2>&1 </dev/null & echo $!"))
        wait_for(f"{name} to serve", self._ready)

    def _ready(self):
        status, text = self.guest.run(f"cat /tmp/{self.name}.log; kill -0 {self.pid}")
        assert status == 0, text
        return "devtap: ready" in text

    def show(self):
        """What `devtap show` tells of the disk, if anybody can be asked."""
        status, text = self.guest.run(f"{DEVTAP} show --json {self.name}")
        return {} if status else json.loads(text)

    def next_worker(self, old=None):
        """The process id of the worker that serves, once that is another than `old`."""
        return wait_for("a worker", lambda: self.show().get("worker") not in (None, old) and self.show()["worker"])

    def event(self, kind):
        """The text of the only event of a kind; None = there is none."""
        lines = self.guest.check(f"{DEVTAP} events --json {self.name}").splitlines()
        found = [event["text"] for event in map(json.loads, lines) if event["event"] == kind]
        assert len(found) <= 1, found
        return found[0] if found else None

    def stop(self):
        """Ends it in good order."""
        self.guest.check(f"kill {self.pid}; while kill -0 {self.pid} 2>/dev/null; do sleep 0.1; done", timeout=120)


def processes(guest, group):
    """Those in a group."""
    return {int(pid) for pid in guest.check(f"cat {group}/cgroup.procs").split()}


def weights(guest, group):
    """For processor time, and for I/O with either way to divide it."""
    return guest.check(f"cd {group}; cat cpu.weight io.weight io.bfq.weight").splitlines()


def check_members(t, guest, disk, group, worker):
    """The worker, its launcher, the extension and the spare are there, supervisor and keeper are not."""
    members = wait_for("a spare worker", lambda: len(processes(guest, group)) >= 4 and processes(guest, group))
    others = {disk.pid, disk.show()["keeper"]}
    t.equal(members & others, set(), "outsiders in the group")
    everybody = {int(pid) for pid in guest.check("pidof devtap").split()}
    t.log(f"in the group {sorted(members)}, of {sorted(everybody)}")
    assert worker in members, (worker, members)


def check_weight(t, guest):
    """A group of the worker's own for as long as it serves, and successors in it."""
    disk = Inner(guest, "vm1", f"--weight 300 --cgroup {MACHINES} --poll 100s")
    group = f"{MACHINES}/devtap-worker-{disk.pid}"
    t.equal(weights(guest, group), ["300", "default 300", "default 300"])
    t.equal([disk.event("weight-not-set"), disk.event("sandbox-lacks")], [None, None])
    worker = disk.next_worker()
    check_members(t, guest, disk, group, worker)
    guest.check(f"kill -9 {worker}")
    worker = disk.next_worker(worker)
    check_members(t, guest, disk, group, worker)
    guest.check(f"{DEVTAP} upgrade vm1")
    check_members(t, guest, disk, group, disk.next_worker(worker))
    return disk


def time_used(guest, disk):
    """Microseconds of processor time that the group of a disk's worker has had."""
    return int(guest.check(f"head -n 1 {MACHINES}/devtap-worker-{disk.pid}/cpu.stat").split()[1])


def check_shares(t, guest, first):
    """Two that never sleep on one processor; what each got is told, and judged by nobody."""
    disks = {300: first, 100: Inner(guest, "vm2", f"--weight 100 --cgroup {MACHINES} --poll 100s")}
    for disk in disks.values():  # from its first request on a thread polls
        start = time_used(guest, disk)
        guest.check(f"devtap bench --socket /tmp/run/{disk.name} --no-inflight --time 600 >/dev/null 2>&1 &")
        wait_for("a busy worker", lambda disk=disk, start=start: time_used(guest, disk) > start + 200_000)
    before = {weight: time_used(guest, disk) for weight, disk in disks.items()}
    guest.check("sleep 1")
    wait_for("the light one to be served", lambda: time_used(guest, disks[100]) > before[100] + 100_000)
    spent = {weight: time_used(guest, disk) - before[weight] for weight, disk in disks.items()}
    t.log("processor time by weight, us:", spent, f"{spent[300] / spent[100]:.2f} to one")
    for disk in disks.values():
        disk.stop()
    t.equal(guest.check(f"find {MACHINES} -mindepth 1 -type d"), "", "groups that are left")


def check_own(t, guest):
    """A user's service, twice: the second finds the group as the first did."""
    for name in ("own1", "own2"):
        disk = Inner(guest, name, "--weight 5000", f"echo $$ >{SERVICE}/cgroup.procs;", USER)
        t.equal(disk.event("weight-not-set"), None)
        group = f"{SERVICE}/devtap-worker-{disk.pid}"
        t.equal(weights(guest, group), ["5000", "default 5000", "default 1000"])
        check_members(t, guest, disk, group, disk.next_worker())
        assert {disk.pid, disk.show()["keeper"]} <= processes(guest, f"{SERVICE}/devtap-supervisor")
        disk.stop()
        t.equal(guest.check(f"cat {SERVICE}/cgroup.subtree_control; find {SERVICE} -mindepth 1 -type d"), "", "what is left")


def check_not_allowed(t, guest):
    """From outside of what was delegated nobody can be brought in: told, and served all the same."""
    disk = Inner(guest, "out", f"--weight 50 --cgroup {SERVICE}", user=USER)
    event = disk.event("weight-not-set")
    assert event and f"control group {SERVICE}: no process of this group can begin there: Permission denied" in event, event
    guest.check("devtap bench --socket /tmp/run/out --verify --time 200ms >/dev/null")
    disk.stop()
    t.equal(guest.check(f"find {SERVICE} -mindepth 1 -type d"), "", "groups that are left")


@limit(120)
def test_weight(t):
    """In a group that is named, in a user's own, and where it is not allowed."""
    tools = initramfs_with(t.folder, [paths.devtap(), "setpriv"], modules=["bfq"])
    guest = t.guest(root="initramfs", extra=["-initrd", tools])
    guest.check(PREPARE)
    check_shares(t, guest, check_weight(t, guest))
    check_own(t, guest)
    check_not_allowed(t, guest)
