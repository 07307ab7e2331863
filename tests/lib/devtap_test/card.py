"""Network cards: `devtap run --net`, a namespace that its TAP interface is in, and a guest on it."""

import json
import os
import signal
import subprocess

from . import paths
from .case import Skip
from .process import Process, free_socket_path, wait_for

MAC = "52:54:00:00:00:01"
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

    def kill_worker(self):
        """Kills the worker and waits for its successor, which may not answer at once."""
        before = self.show()["worker"]
        os.kill(before, signal.SIGKILL)

        def successor():
            try:
                return self.show().get("worker") not in (None, 0, before)
            except subprocess.CalledProcessError:
                return False
        wait_for("the successor", successor)

    def ops(self, layer, way):
        """Packets, bytes and drops of a layer."""
        stats = json.loads(self.devtap("stats", "--json", "card"))
        return next(each for each in stats["layers"] if each["name"] == layer)["ops"][way]

    def counters(self, layer):
        """A layer's own counters."""
        stats = json.loads(self.devtap("stats", "--json", "card"))
        return next(each for each in stats["layers"] if each["name"] == layer)["counters"]


def require():
    """Skips where the process may not make interfaces."""
    done = subprocess.run(["unshare", "-n", "ip", "tuntap", "add", "dev", "card0", "mode", "tap"],
                          check=False, capture_output=True)
    if done.returncode:
        raise Skip("no TAP interfaces here: " + done.stderr.decode().strip())


def arguments(card, packed=False, queues=1):
    """QEMU's, for a guest on the card."""
    # Without KVM QEMU 7.2 crashes when a guest masks the MSI-X vector of a vhost-user card: so it gets none.
    device = f"virtio-net-pci,netdev=n0,mac={MAC}" + (",packed=on" if packed else "") + \
        (",vectors=0" if paths.accelerator() == "tcg" else "") + (",mq=on" if queues > 1 else "")
    return ["-chardev", f"socket,id=net0,path={card.socket},reconnect=1",
            "-netdev", f"vhost-user,id=n0,chardev=net0,queues={queues}", "-device", device]


def start(t, chain="tap ifname=card0", packed=False, queues=1, options=(), root="initramfs"):
    """A namespace, a card in it, and a guest on the card."""
    require()
    space = t.use(Namespace(t.folder, queues > 1))
    card = t.use(Card(chain, t.folder, space.enter, options))
    guest = t.guest(root=root, smp=queues, extra=arguments(card, packed, queues))
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
