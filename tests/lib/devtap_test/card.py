"""Network cards: `devtap run --net`, a namespace that stands for the host, a guest on it, and `devtap switch`."""

import json
import os
import signal
import struct
import subprocess

from . import paths
from .case import Skip
from .load import noise
from .process import PATIENCE, Process, free_socket_path, wait_for

MAC = "52:54:00:00:00:01"
INIT = "modprobe virtio_net; ip link set eth0 up; ip addr add 10.77.0.2/24 dev eth0"


def init(number):
    """The commands that give a guest's card the address 10.77.0.NUMBER."""
    return INIT.replace("10.77.0.2/", f"10.77.0.{number}/")


def free_port():
    """A TCP or UDP port of the loopback interface that nothing uses."""
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])"
    return int(subprocess.run(["python3", "-c", code], check=True, stdout=subprocess.PIPE).stdout)


class Namespace:
    """A network namespace with an interface card0 that stays, and the address 10.77.0.1; its name is that of a
    process in it.

    veth: card0 is one end of a pair, and the address is the other end's; else it is a TAP interface.
    """

    def __init__(self, folder, multi_queue=False, veth=False):
        if veth:
            make = "ip link add card0 type veth peer name host0 && ip link set card0 up && address=host0"
        else:
            make = "ip tuntap add dev card0 mode tap vnet_hdr" + (" multi_queue" if multi_queue else "") + \
                " && address=card0"
        make = f"ip link set lo up; {make}; ip addr add 10.77.0.1/24 dev $address; ip link set $address up; " \
            "echo made; exec sleep infinity"
        self.process = Process(["unshare", "-n", "sh", "-c", make], folder, name="namespace",
                               ready_line="made")
        self.enter = ["nsenter", "-t", str(self.process.pid), "-n"]

    def run(self, *argv, timeout=PATIENCE):
        """Runs a command in it; returns its output."""
        return subprocess.run([*self.enter, *argv], check=True, timeout=timeout, text=True,
                              stdout=subprocess.PIPE).stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()


class Card(Process):
    """`devtap run --net NAME --socket PATH CHAIN`."""

    def __init__(self, chain, folder, prefix=(), options=(), card="card"):
        self.socket = free_socket_path(folder, f"{card}.sock")
        self.card = card
        self.environment = dict(os.environ, DEVTAP_RUNTIME_DIR=str(folder))
        super().__init__([*prefix, paths.devtap(), "run", "--net", card, "--socket", self.socket,
                          *options, chain], folder, name=f"devtap-{card}", ready_line="devtap: ready",
                         env=self.environment)

    def devtap(self, *argv):
        """Another devtap command; returns its output."""
        return subprocess.run([paths.devtap(), *argv], env=self.environment, check=True, text=True,
                              timeout=PATIENCE, stdout=subprocess.PIPE).stdout

    def show(self):
        """What `devtap show` tells."""
        return json.loads(self.devtap("show", "--json", self.card))

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
        stats = json.loads(self.devtap("stats", "--json", self.card))
        return next(each for each in stats["layers"] if each["name"] == layer)["ops"][way]

    def counters(self, layer):
        """A layer's own counters."""
        stats = json.loads(self.devtap("stats", "--json", self.card))
        return next(each for each in stats["layers"] if each["name"] == layer)["counters"]


class Switch(Process):
    """`devtap switch` with its uplink and ports; `ports` are words of its command line."""

    def __init__(self, folder, ports, uplink=None, prefix=()):
        self.sockets = folder
        self.environment = dict(os.environ, DEVTAP_RUNTIME_DIR=str(folder))
        super().__init__([*prefix, paths.devtap(), "switch", "--sockets", folder,
                          *(["--uplink", uplink] if uplink else []), *ports], folder, name="devtap-switch",
                         ready_line="devtap: ready", env=self.environment)

    def chain(self, port):
        """The back of a card that is joined to a port."""
        return f"stream address=unix:{self.sockets}/{port}.sock vnet=on"

    def change(self, *words, check=True):
        """`devtap switch add-port` or `remove-port`."""
        return self.devtap("switch", *words, check=check)

    def devtap(self, *words, check=True):
        """A verb of devtap, for a port; its end."""
        return subprocess.run([paths.devtap(), *words], env=self.environment, check=check, text=True, timeout=PATIENCE,
                              stdout=subprocess.PIPE, stderr=None if check else subprocess.PIPE)

    def show(self, port):
        """What `devtap show` tells of a port's frames, and of the process."""
        show = json.loads(self.devtap("show", "--json", port).stdout)
        return dict(show["front"], pid=show["pid"])

    def parameters(self, port, layer):
        """Those of a layer of the port's chain, as they are now."""
        show = json.loads(self.devtap("show", "--json", port).stdout)
        return next(each["parameters"] for each in show["chain"] if each["name"] == layer)


def large_capture(path, blocks=256):
    """A pcapng file with a section, and blocks of 1 MiB that no reader knows, which take no space; its size."""
    with open(path, "wb") as to:
        to.write(struct.pack("<IIIHHqI", 0x0a0d0d0a, 28, 0x1a2b3c4d, 1, 0, -1, 28))
        for at in range(28, 28 + (blocks << 20), 1 << 20):
            to.seek(at)
            to.write(struct.pack("<II", 0x80000000, 1 << 20))
            to.seek(at + (1 << 20) - 4)
            to.write(struct.pack("<I", 1 << 20))
    return os.stat(path).st_size


def require():
    """Skips where the process may not make interfaces."""
    done = subprocess.run(["unshare", "-n", "ip", "tuntap", "add", "dev", "card0", "mode", "tap"],
                          check=False, capture_output=True)
    if done.returncode:
        raise Skip("no TAP interfaces here: " + done.stderr.decode().strip())


def arguments(card, packed=False, queues=1, mac=MAC, mtu=None, extra=""):
    """QEMU's, for a guest on the card; `mtu` is what it tells the guest; `extra`: more of the device's properties."""
    # Without KVM QEMU 7.2 crashes when a guest masks the MSI-X vector of a vhost-user card: so it gets none.
    device = f"virtio-net-pci,netdev=n0,mac={mac}" + (",packed=on" if packed else "") + \
        (f",host_mtu={mtu}" if mtu else "") + \
        (",vectors=0" if paths.accelerator() == "tcg" else "") + (",mq=on" if queues > 1 else "") + extra
    return ["-chardev", f"socket,id=net0,path={card.socket},reconnect=1",
            "-netdev", f"vhost-user,id=n0,chardev=net0,queues={queues}", "-device", device]


def start(t, chain="tap ifname=card0", packed=False, queues=1, options=(), root="initramfs", veth=False):
    """A namespace, a card in it, and a guest on the card."""
    require()
    space = t.use(Namespace(t.folder, queues > 1, veth))
    card = t.use(Card(chain, t.folder, space.enter, options))
    guest = t.guest(root=root, smp=queues, extra=arguments(card, packed, queues))
    guest.check(INIT)
    return space, card, guest


def ping(guest, count=3):
    """The host answers the guest."""
    guest.check(f"ping -c {count} -i 0.2 -W 30 10.77.0.1")


def listens(guest, port):
    """Waits until somebody in the guest listens at a port of TCP."""
    guest.check(f"until grep -q ':{port:04X} 0*:0000 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done")


def send(t, sender, receiver, address, mib):
    """Random bytes arrive as they were, by TCP."""
    sender.check(f"{noise(mib)} >/tmp/file")
    # Its input must not end, or it says so, and busybox's client takes that for the end of all.
    receiver.check("rm -f /tmp/got /tmp/never; mkfifo /tmp/never; "
                   "(nc -l -p 5001 <> /tmp/never > /tmp/got; touch /tmp/done) > /dev/null 2>&1 &")
    listens(receiver, 5001)
    sender.check(f"nc {address} 5001 < /tmp/file")
    receiver.check("while ! [ -e /tmp/done ]; do sleep 0.1; done; rm /tmp/done")
    t.equal(receiver.check("wc -c < /tmp/got"), str(mib << 20), "bytes that arrived")
    t.equal(receiver.check("sha256sum < /tmp/got"), sender.check("sha256sum < /tmp/file"), "what arrived")


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
    guest.check(f"{noise(mib)} >/tmp/file")
    own = guest.check("sha256sum < /tmp/file").split()[0]
    with subprocess.Popen([*space.enter, "python3", "-c", SERVER], text=True,
                          stdout=subprocess.PIPE) as server:
        t.equal(server.stdout.readline(), "listens\n")
        guest.check("nc 10.77.0.1 5001 < /tmp/file")
        t.equal(server.stdout.readline().strip(), own, "what the host got")
        guest.check("nc 10.77.0.1 5001 < /dev/null > /tmp/back")
        server.wait(PATIENCE)
    t.equal(guest.check("sha256sum < /tmp/back").split()[0], own, "what the guest got back")


# Says who connects and sends back what it gets, slowly, so that there is time to break something.
ECHO = """
import socket, time
server = socket.create_server(("10.77.0.1", 5001))
print("listens", flush=True)
sock, peer = server.accept()
print(peer[0], flush=True)
while data := sock.recv(1 << 16):
    sock.sendall(data)
    time.sleep(0.1)
"""


class Server:
    """A Python program in the namespace; a context."""

    def __init__(self, space, program):
        self.child = subprocess.Popen([*space.enter, "python3", "-c", program], text=True, stdout=subprocess.PIPE)
        assert self.line() == "listens"

    def line(self):
        """What it says next."""
        return self.child.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


def survive(t, space, card, guest, seen, mib=4):
    """Bytes by TCP to the host and back are the same; the worker dies meanwhile, and the connection does not.

    seen: the address that the host sees.
    """
    guest.check(f"{noise(mib)} >/tmp/file")
    with Server(space, ECHO) as server:
        guest.check("> /tmp/back; (nc 10.77.0.1 5001 < /tmp/file > /tmp/back) > /dev/null 2>&1 &")
        t.equal(server.line(), seen, "who the server sees")
        # So many take the server most of a second, and what layers save of a connection is at most 0.3 s old.
        back = wait_for("bytes that come back",
                        lambda: (size := int(guest.check("wc -c < /tmp/back"))) > 1 << 19 and size)
        assert back < mib << 20, "it has to be under way"
        card.kill_worker()
        # busybox's nc ends when the server does, which waits for the guest's end of the connection.
        guest.check(f"while [ $(wc -c < /tmp/back) -lt {mib << 20} ]; do sleep 0.2; done")
    t.equal(guest.check("sha256sum < /tmp/back"), guest.check("sha256sum < /tmp/file"), "what came back")
