"""Network cards: real guests on `devtap run --net`, with the host's own stack at the other end."""

import json
import os
import re
import shutil
import signal
import subprocess

from devtap_test import paths, wait_for
from devtap_test.case import Skip, limit
from devtap_test.process import Process, free_socket_path

INIT = "modprobe virtio_net; ip link set eth0 up; ip addr add 10.77.0.2/24 dev eth0"


class Namespace:
    """A network namespace with a TAP interface that stays; its name is that of a process in it."""

    def __init__(self, folder, multi_queue=False):
        make = "ip link set lo up; ip tuntap add dev card0 mode tap vnet_hdr" + \
            (" multi_queue" if multi_queue else "") + \
            "; ip addr add 10.77.0.1/24 dev card0; ip link set card0 up; echo made; exec sleep 1000"
        self.process = Process(["unshare", "-n", "sh", "-c", make], folder, name="namespace",
                               ready_line="made")
        self.enter = ["nsenter", "-t", str(self.process.pid), "-n"]

    def run(self, *argv, timeout=60):
        """Runs a command in it; returns its output."""
        return subprocess.run([*self.enter, *argv], check=True, timeout=timeout, text=True,
                              stdout=subprocess.PIPE).stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()


class Card(Process):
    """`devtap run --net NAME --socket PATH CHAIN`."""

    def __init__(self, chain, folder, prefix=(), options=()):
        self.socket = free_socket_path(folder, "card.sock")
        self.environment = dict(os.environ, DEVTAP_RUNTIME_DIR=str(folder))
        super().__init__([*prefix, paths.devtap(), "run", "--net", "card", "--socket", self.socket,
                          *options, chain], folder, name="devtap-card", ready_line="devtap: ready",
                         env=self.environment)

    def devtap(self, *argv):
        """Another devtap command; returns its output."""
        return subprocess.run([paths.devtap(), *argv], env=self.environment, check=True, text=True,
                              timeout=30, stdout=subprocess.PIPE).stdout

    def show(self):
        """What `devtap show` tells."""
        return json.loads(self.devtap("show", "--json", "card"))

    def ops(self, layer, way):
        """Packets, bytes and drops of a layer."""
        stats = json.loads(self.devtap("stats", "--json", "card"))
        return next(each for each in stats["layers"] if each["name"] == layer)["ops"][way]


def require():
    """Skips where the process may not make interfaces."""
    done = subprocess.run(["unshare", "-n", "ip", "tuntap", "add", "dev", "card0", "mode", "tap"],
                          check=False, capture_output=True)
    if done.returncode:
        raise Skip("no TAP interfaces here: " + done.stderr.decode().strip())


def start(t, chain="tap ifname=card0", packed=False, queues=1, options=()):
    """A namespace, a card in it, and a guest on the card."""
    require()
    space = t.use(Namespace(t.folder, queues > 1))
    card = t.use(Card(chain, t.folder, space.enter, options))
    # Without KVM QEMU 7.2 crashes when a guest masks the MSI-X vector of a vhost-user card: so it gets none.
    device = "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01" + (",packed=on" if packed else "") + \
        (",vectors=0" if paths.accelerator() == "tcg" else "") + (",mq=on" if queues > 1 else "")
    guest = t.guest(root="initramfs", smp=queues,
                    extra=["-chardev", f"socket,id=net0,path={card.socket},reconnect=1",
                           "-netdev", f"vhost-user,id=n0,chardev=net0,queues={queues}", "-device", device])
    guest.check(INIT)
    return space, card, guest


def ping(guest, count=3):
    """The host answers the guest."""
    guest.check(f"ping -c {count} -i 0.2 -W 5 10.77.0.1", timeout=60)


SERVER = """
import hashlib, socket, sys
server = socket.create_server(("10.77.0.1", 5001))
print("listens", flush=True)
peer, _ = server.accept()
data = b""
while chunk := peer.recv(1 << 16):
    data += chunk
peer.close()
print(hashlib.sha256(data).hexdigest(), flush=True)
peer, _ = server.accept()
peer.sendall(data)
peer.close()
"""


def transfer(t, space, guest, mib=8):
    """Random bytes to the host and back again by TCP arrive as they were."""
    guest.check(f"dd if=/dev/urandom of=/tmp/file bs=1M count={mib} 2>/dev/null")
    own = guest.check("sha256sum < /tmp/file").split()[0]
    with subprocess.Popen([*space.enter, "python3", "-c", SERVER], text=True,
                          stdout=subprocess.PIPE) as server:
        t.equal(server.stdout.readline(), "listens\n")
        guest.check("nc 10.77.0.1 5001 < /tmp/file", timeout=90)
        t.equal(server.stdout.readline().strip(), own, "what the host got")
        guest.check("nc 10.77.0.1 5001 < /dev/null > /tmp/back", timeout=90)
        server.wait(30)
    t.equal(guest.check("sha256sum < /tmp/back").split()[0], own, "what the guest got back")


@limit(150)
def test_split(t):
    """A guest on a TAP interface: ping, and TCP both ways with offloads; the chain sees every packet."""
    space, card, guest = start(t)
    ping(guest)
    transfer(t, space, guest)
    front = card.show()["front"]
    assert front["attached"], front
    t.equal(front["dropped"], {"no_buffer": 0, "too_big": 0, "bad_header": 0, "bad_length": 0})
    sent = card.ops("tap", "transmit")
    t.equal(sent["errors"], 0, "dropped")
    assert sent["bytes"] > 8 << 20, sent
    assert sent["bytes"] / sent["requests"] > 1514, f"no super-frame came: {sent}"


@limit(150)
def test_packed(t):
    """The same on packed rings, and without a single offload of the guest's."""
    space, _card, guest = start(t, packed=True)
    ping(guest)
    guest.check("ip link set eth0 mtu 1000")
    transfer(t, space, guest, mib=4)


@limit(150)
def test_two_threads(t):
    """Two queues, each with both of its rings on a thread of its own: both carry packets both ways."""
    space, card, guest = start(t, queues=2, options=("--threads", "2", "--threads-per-disk", "2"))
    t.equal(guest.check("ls -d /sys/class/net/eth0/queues/rx-*").split(),
            [f"/sys/class/net/eth0/queues/rx-{n}" for n in range(2)])
    for _ in range(10):
        if min(ring["pushed"] for ring in card.show()["front"]["queues"]) > 20:
            break
        for cpu in range(2):
            guest.check(f"taskset -c {cpu} ping -c 25 -i 0.01 -W 5 10.77.0.1", timeout=60)
    else:
        raise AssertionError(f"a ring is idle: {card.show()['front']['queues']}")
    transfer(t, space, guest, mib=4)
    t.equal(card.show()["front"]["dropped"]["no_buffer"], 0, "dropped")


@limit(150)
def test_worker_killed(t):
    """The worker dies under traffic: the connection goes on, and the guest's driver notices nothing."""
    space, card, guest = start(t)
    ping(guest, 1)
    for _ in range(3):
        before = card.show()["worker"]
        os.kill(before, signal.SIGKILL)
        wait_for("the successor", lambda: card.show().get("worker") not in (None, 0, before))
        ping(guest, 1)
    transfer(t, space, guest, mib=4)
    t.equal(guest.run("dmesg | grep -i 'NETDEV WATCHDOG\\|virtio.*error'")[0], 1, "complaints")


@limit(60)
def test_bad_back(t):
    """What cannot be opened is said in a line, and nothing is left behind."""
    require()
    for chain, said in (("tap ifname=a-name-that-is-too-long", "1 to 15 characters"),
                        ("tap ifname=lo", "TAP interface 'lo'"), ("file path=x", "no extension or back of"),
                        ("tap", "ifname")):
        done = subprocess.run(["unshare", "-n", paths.devtap(), "run", "--net", "card", "--socket",
                               t.folder / "card.sock", chain], check=False, timeout=30, text=True,
                              stderr=subprocess.PIPE)
        assert done.returncode and said in done.stderr, done.stderr
        assert not (t.folder / "card.sock").exists()


def testpmd(t, card, packed):
    """DPDK's driver floods the card for some seconds; returns how many packets it says it sent."""
    binary = shutil.which("dpdk-testpmd")
    if not binary:
        raise Skip("no dpdk-testpmd (scripts/deps test)")
    device = f"net_virtio_user0,path={card.socket},queue_size=256" + (",packed_vq=1" if packed else "")
    with subprocess.Popen([binary, "--lcores=0@0,1@0", "--main-lcore=0", "--no-huge", "-m", "256", "--no-pci",
                           f"--file-prefix=dt{os.getpid()}", "--vdev", device, "--", "-i",
                           "--nb-cores=1", "--txd=256", "--rxd=256", "--forward-mode=flowgen",
                           "--txpkts=64", "--total-num-mbufs=4096"], text=True, bufsize=1,
                          stdin=subprocess.PIPE, stdout=open(t.folder / "testpmd.log", "w+", encoding="utf-8"),
                          stderr=subprocess.STDOUT) as pmd:
        try:
            pmd.stdin.write("start\n")
            wait_for("packets", lambda: card.ops("null", "transmit")["requests"] > 10000, 30)
            pmd.stdin.write("stop\nquit\n")
            pmd.wait(30)
        finally:
            pmd.kill()
    log = (t.folder / "testpmd.log").read_text()
    return int(re.findall(r"TX-packets: (\d+)", log)[-1])


@limit(90)
def test_dpdk(t):
    """Somebody else's driver, split and packed: every packet that it sent is one that we saw."""
    card = t.use(Card("null", t.folder))
    seen = 0
    for packed in (False, True):
        sent = testpmd(t, card, packed)
        total = card.ops("null", "transmit")["requests"]
        t.equal(total - seen, sent, "packed" if packed else "split")
        seen = total
        wait_for("the end of the session", lambda: not card.show()["front"]["attached"])
    t.equal(card.show()["front"]["broken"], 0, "broken sessions")
