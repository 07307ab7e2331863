"""The part `tcp` of bench/network: super-frames between a card and a TAP interface, beside QEMU's own TAP netdev.

First a driver that does nothing but fill rings, so that the back ends decide: ours by vhost-user, QEMU's on a machine that
runs no guest. Then iperf3 in a guest with Debian's kernel that QEMU emulates, with both cards at once: there the guest decides, and
processor time of what serves its card is what can be compared: QEMU's main thread, and our worker.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile

from devtap_test import Guest, wait_for
from devtap_test.card import MAC, Card, Namespace, arguments
from devtap_test.process import Process
from devtap_test.toolbox import initramfs_with

BACK = ("taskset", "-c", "0")
OURS, QEMU, KERNEL = "devtap tap", "QEMU's tap", "QEMU's tap, vhost=on (the kernel's)"
# As QEMU does; by default a worker polls for 50 us before it sleeps, which is processor time, too.
ASLEEP = "devtap tap, never polling"
WAYS = {"send": "from the guest", "receive": "to the guest"}
# Bits of virtio 1.2, 5.1.3, 2.7 and 6.
FEATURES = {0: "csum", 1: "guest_csum", 7: "guest_tso4", 8: "guest_tso6", 10: "guest_ufo", 11: "host_tso4", 12: "host_tso6", 14: "host_ufo",
            15: "mrg_rxbuf", 28: "indirect", 29: "event_idx", 54: "guest_uso4", 55: "guest_uso6", 56: "host_uso"}


def names(bits):
    """Of those features that concern throughput."""
    return " ".join(name for bit, name in FEATURES.items() if bits >> bit & 1)


def cpu_seconds(pid, thread=None):
    """Processor time of a process or of one of its threads."""
    tasks = pathlib.Path(f"/proc/{pid}/task").glob(str(thread) if thread else "*")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Result:
    """Bytes, seconds, and seconds of a processor that they took."""

    def __init__(self, size, seconds, cpu):
        self.rate = size * 8 / seconds / 1e9
        self.cpu = cpu / (size / 1e9) if size else float("inf")


# ---- A driver that only fills rings ----

def qemu_alone(stack, folder, space):
    """QEMU's card on a machine whose processor halts at once; returns card-load's words, and the process."""
    qtest, memory, bios = f"{folder}/qtest", f"{folder}/memory", f"{folder}/bios"
    # cli; hlt; and back again, where an x86 begins. (Debian has no accelerator "qtest", which would need none.)
    pathlib.Path(bios).write_bytes(bytes(0xfff0) + b"\xfa\xf4\xeb\xfc" + bytes(12))
    process = stack.enter_context(Process(
        [*space.enter, *BACK, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-bios", bios,
         "-machine", "microvm,accel=tcg,acpi=off,memory-backend=mem", "-m", "64M",
         "-object", f"memory-backend-file,id=mem,size=64M,mem-path={memory},share=on",
         "-qtest", f"unix:{qtest},server=on,wait=off", "-qtest-log", "none", "-global", "virtio-mmio.force-legacy=false",
         "-netdev", "tap,id=n0,ifname=card0,script=no,downscript=no,vhost=off",
         "-device", f"virtio-net-device,netdev=n0,mac={MAC}"], folder, name="qemu"))
    wait_for("QEMU", lambda: os.path.exists(qtest))
    return ["qemu", qtest, memory], process.pid


def our_card(stack, folder, space):
    """The same for ours."""
    card = stack.enter_context(Card("tap ifname=card0", folder, [*space.enter, *BACK]))
    return ["vhost", card.socket], card.show()["worker"]


def fill(program, start, way, seconds):
    """One measurement, and the features."""
    with contextlib.ExitStack() as stack:
        # Its memory is the guest's: that must not be on a disk.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="devtap-bench.", dir="/dev/shm"))
        space = stack.enter_context(Namespace(folder))
        space.run("sysctl", "-qw", "net.ipv6.conf.card0.disable_ipv6=1")
        words, pid = start(stack, folder, space)
        child = stack.enter_context(subprocess.Popen([*space.enter, program, *words, way, "card0", str(seconds)], text=True,
                                                     stdout=subprocess.PIPE))
        stack.callback(child.kill)
        if child.stdout.readline() != "begin\n":
            raise RuntimeError("card-load has ended")
        before = cpu_seconds(pid)
        _packets, size, took, features = child.stdout.readline().split()
        return Result(int(size), float(took), cpu_seconds(pid) - before), int(features, 0)


def alone(bench, program):
    """The back ends decide."""
    print("\n## TCP in super-frames of 64 KB, by a driver that only fills rings\n\n"
          "| way | | Gbit/s | of QEMU's | processor, s/GB | QEMU's, of this |\n|---|---|---|---|---|---|")
    agreed = {}
    for way, title in WAYS.items():
        rounds = []
        for _ in range(bench.options.rounds):
            rounds.append({})
            for name, start in ((QEMU, qemu_alone), (OURS, our_card)):
                rounds[-1][name], agreed[name] = fill(program, start, way, bench.options.seconds)
        table(bench, rounds, title, "by a driver that only fills rings")
    print("\nAgreed on: " + "; ".join(f"{name}: {names(bits)}" for name, bits in agreed.items()))


def table(bench, rounds, title, how):
    """Rows of one way."""
    for name in rounds[0]:
        rate = [each[name].rate / each[QEMU].rate for each in rounds]
        cpu = [each[QEMU].cpu / each[name].cpu for each in rounds]
        print(f"| {title} | {name} | {statistics.median(each[name].rate for each in rounds):.2f} | {spread(rate)} | "
              f"{statistics.median(each[name].cpu for each in rounds):.3f} | {spread(cpu)} |", flush=True)
        if name in (OURS, ASLEEP):
            bench.goal(f"TCP {title}, {name} of QEMU's, {how}", "1", rate)
            bench.goal("the same, bytes for a second of a processor", "1", cpu)


def spread(ratios):
    """The median, the least and the most."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})" if ratios else "-"


# ---- A guest ----

class Machine:
    """A guest with a card of each kind; each is on a TAP interface of its own with the address 10.77.N.1."""

    def __init__(self, stack, folder):
        self.folder, self.guest = folder, None
        self.space = stack.enter_context(Namespace(folder))
        self.names, self.cards = [], {}
        self.extra = ["-initrd", initramfs_with(folder, ["iperf3"])]
        self.ours(stack, OURS, ())
        self.ours(stack, ASLEEP, ("--poll", "0s"))
        self.own(QEMU, "off")
        if os.path.exists("/dev/vhost-net"):
            self.own(KERNEL, "on")

    def interface(self, name):
        """The next one's number, name and MAC address."""
        number = len(self.names)
        self.names.append(name)
        if number:  # the first is the namespace's
            self.space.run("sh", "-c", f"ip tuntap add dev card{number} mode tap vnet_hdr && "
                           f"ip addr add 10.77.{number}.1/24 dev card{number} && ip link set card{number} up")
        return number, f"card{number}", self.mac(number)

    @staticmethod
    def mac(number):
        """Of a card."""
        return MAC[:-1] + str(number + 1)

    def ours(self, stack, name, options):
        """A card of `devtap run`."""
        number, interface, mac = self.interface(name)
        card = stack.enter_context(Card(f"tap ifname={interface}", self.folder, [*self.space.enter, *BACK], options,
                                        card=interface))
        self.cards[number] = card
        self.extra += [re.sub(r"((?:id|chardev|netdev)=n(?:et)?)0\b", rf"\g<1>{number}", word)
                       for word in arguments(card, mac=mac)]

    def own(self, name, vhost):
        """A card of QEMU's own."""
        number, interface, mac = self.interface(name)
        # As ours, which must do without because of an error of this QEMU's: see card.arguments().
        vectors = ",vectors=0" if "vectors=0" in self.extra[-1] else ""
        self.extra += ["-netdev", f"tap,id=n{number},ifname={interface},script=no,downscript=no,vhost={vhost}",
                       "-device", f"virtio-net-pci,netdev=n{number},mac={mac}{vectors}"]

    def boot(self, stack):
        """In the namespace, for QEMU's interfaces."""
        with entered(self.space):
            self.guest = stack.enter_context(Guest(root="initramfs", folder=self.folder, extra=self.extra))
        self.guest.check("modprobe virtio_net; ip link set lo up; cd /sys/class/net; for card in eth*; do "
                         "ip link set $card up; done")
        macs = {self.mac(number): number for number in range(len(self.names))}
        for name in self.guest.check("ls /sys/class/net").split():
            number = macs.get(self.guest.check(f"cat /sys/class/net/{name}/address").strip())
            if number is not None:
                self.guest.check(f"ip addr add 10.77.{number}.2/24 dev {name}")
                bits = self.guest.check(f"cat /sys/class/net/{name}/device/features").strip()
                print(f"({self.names[number]}: {names(int(bits[::-1], 2))})")
                stack.enter_context(Process([*self.space.enter, "iperf3", "-s", "-B", f"10.77.{number}.1"], self.folder,
                                            name=f"iperf3-{number}"))

    def measure(self, number, way, seconds):
        """Of the card of that number."""
        def used():
            return cpu_seconds(self.cards[number].show()["worker"]) if number in self.cards else \
                cpu_seconds(self.guest.process.pid, self.guest.process.pid)
        before = used()
        said = self.guest.check(f"iperf3 -c 10.77.{number}.1 -t {seconds} -J {'-R' if way == 'receive' else ''}",
                                timeout=seconds + 60)
        end = json.loads(said[said.index("{"):])["end"]["sum_received"]
        return Result(end["bytes"], end["seconds"], used() - before)


@contextlib.contextmanager
def entered(space):
    """What is started meanwhile is in that network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(namespace):
        if libc.setns(namespace.fileno(), 0) < 0:
            raise OSError(ctypes.get_errno(), "setns")

    with open("/proc/self/ns/net", "rb") as own, open(f"/proc/{space.process.pid}/ns/net", "rb") as other:
        enter(other)
        try:
            yield
        finally:
            enter(own)


def emulated(bench):
    """The guest decides; who serves its card takes so much of a processor."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="devtap-bench.")))
        print("\n## TCP by iperf3 in a guest\n")
        machine = Machine(stack, folder)
        machine.boot(stack)
        if KERNEL not in machine.names:
            print(f"({KERNEL}: there is no /dev/vhost-net here)")
        print("\n| way | | Gbit/s | of QEMU's | processor, s/GB | QEMU's, of this |\n|---|---|---|---|---|---|")
        for way, title in WAYS.items():
            rounds = [{name: machine.measure(number, way, bench.options.seconds)
                       for number, name in enumerate(machine.names)} for _ in range(bench.options.rounds)]
            table(bench, rounds, title, "by iperf3 in an emulated guest")


def run(bench, program):
    """Both."""
    alone(bench, program)
    emulated(bench)
