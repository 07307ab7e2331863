"""`devtap switch`: two guests and a hostile card in one switch, with the host's own stack at its uplink."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time

from devtap_test import paths, wait_for
from devtap_test.card import Card, Namespace, Switch, arguments, init, require
from devtap_test.case import limit

MAC = {"a": "52:54:00:00:00:02", "b": "52:54:00:00:00:03", "c": "52:54:00:00:00:04"}
HOST = "10.77.0.1"


def octets(mac):
    """The six bytes of an address."""
    return bytes.fromhex(mac.replace(":", ""))


class Peer:
    """A card's process that does as it likes, on a port's socket."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(path))
        self.sock.setblocking(False)
        self.received = b""

    def send(self, frame):
        """One frame, with nothing in its virtio header; waits while the switch takes none."""
        self.sock.setblocking(True)
        self.sock.sendall(struct.pack(">I", 12 + len(frame)) + bytes(12) + frame)
        self.sock.setblocking(False)

    def frames(self):
        """All frames that came so far."""
        try:
            while chunk := self.sock.recv(1 << 16):
                self.received += chunk
        except BlockingIOError:
            pass
        found, at = [], 0
        while at < len(self.received):
            length = struct.unpack_from(">I", self.received, at)[0]
            found.append(self.received[at + 16:at + 4 + length])
            at += 4 + length
        return found


def start(t, group=True):
    """A namespace, a switch in it, and two guests, a and b; port c is nobody's yet."""
    require()
    space = t.use(Namespace(t.folder))
    ports = {name: ["--port", name, "--mac", mac] + (["--group", "web"] if group and name != "c" else [])
             for name, mac in MAC.items()}
    switch = t.use(Switch(t.folder, ports["a"] + ports["c"], "tap ifname=card0", space.enter))
    switch.change("add-port", "a", *ports["b"])
    cards = [t.use(Card(switch.chain(name), t.folder, card=f"net-{name}")) for name in "ab"]
    guests = [t.guest(root="initramfs", wait=False, extra=arguments(card, mac=MAC[name]))
              for name, card in zip("ab", cards)]
    for number, guest in enumerate(guests):
        guest.wait_for_shell()
        guest.check(init(number + 2))
    return space, switch, guests


def ping(guest, address, count=3):
    """Somebody answers; the first may be lost while the address is looked for."""
    guest.check(f"ping -c 1 -W 5 {address} || ping -c 1 -W 5 {address}; ping -c {count} -i 0.2 -W 5 {address}",
                timeout=60)


@limit(180)
def test_guests(t):
    """Peers reach each other and the host, one on a port that was added; the switch is killed, and they do again. C takes no
    address and sees none. At last the port is taken away."""
    space, switch, (a, b) = start(t)
    ping(a, HOST)
    ping(b, HOST)
    ping(a, "10.77.0.3")
    peer = Peer(t.folder / "c.sock")
    before = switch.show("c")
    for _ in range(100): # under a's address, to the host and to b
        peer.send(b"\xff" * 6 + octets(MAC["a"]) + b"\x08\x06" + bytes(46))
        peer.send(octets(MAC["b"]) + octets(MAC["a"]) + b"\x08\x00" + bytes(46))
        peer.send(octets(MAC["b"]) + octets(MAC["c"]) + b"\x08\x00" + bytes(46))
    wait_for("judgement", lambda: switch.show("c")["received"] >= before["received"] + 300)
    after = switch.show("c")
    t.equal((after["dropped_spoofed"], after["dropped_private"]), (200, 100))
    ping(a, "10.77.0.3")
    b.check(f"ip neigh flush dev eth0; ping -c 1 -W 5 {HOST}")
    strangers = [frame for frame in peer.frames() if frame[6:12] in (octets(MAC["a"]), octets(MAC["b"]))]
    t.equal(strangers, [], "frames of a and b at c")
    os.kill(switch.show("a")["pid"], signal.SIGKILL)
    wait_for("the switch", lambda: "is started again" in switch.output() and switch.output().count("ready") == 2)
    ping(a, HOST)
    ping(b, "10.77.0.2")
    neighbours = space.run("ip", "neigh", "show", "10.77.0.2")
    assert MAC["a"] in neighbours, neighbours
    switch.change("remove-port", "b")
    t.equal(a.run("ping -c 2 -W 2 10.77.0.3")[0], 1, "b is gone")
    assert not (t.folder / "b.sock").exists()
    ping(a, HOST)
    for words, said in ((("remove-port", "b"), "no running device is named 'b'"), (("remove-port", "uplink"), "is an uplink"),
                        (("add-port", "a", "--port", "a", "--mac", MAC["b"]), "two ports are named 'a'"),
                        (("add-port", "a", "--port", "d", "--mac", MAC["a"]), "its address is another port's"),
                        (("add-port", "a", "--uplink", "null"), "from the start")):
        done = switch.change(*words, check=False)
        assert done.returncode and said in done.stderr, done.stderr
    switch.change("add-port", "uplink", "--port", "d", "--mac", MAC["b"] + "," + MAC["c"][:-1] + "9")
    t.equal(len(switch.show("d")["macs"]), 2)


@limit(180)
def test_flood(t):
    """A card floods the uplink with all it has: a guest's answers come all the same, and its TCP goes on."""
    _space, switch, (a, b) = start(t, group=False)
    ping(a, HOST)
    peer = Peer(t.folder / "c.sock")
    frame = octets("02:00:00:00:00:99") + octets(MAC["c"]) + b"\x88\xb5" + bytes(1400)
    a.check(f"ping -c 40 -i 0.1 -W 5 {HOST} > /tmp/pings 2>&1 &")
    end = time.monotonic() + 6
    sent = 0
    while time.monotonic() < end:
        for _ in range(200):
            peer.send(frame)
        sent += 200
    lost = a.check("sleep 3; grep -o '[0-9]*% packet loss' /tmp/pings")
    assert int(lost.split("%")[0]) <= 5, f"{lost}, and c sent {sent} frames"
    assert switch.show("c")["received"] > 10000, switch.show("c")
    t.equal(switch.show("a")["dropped_full"], 0, "of a's")
    t.equal(a.run("ping -c 2 -W 2 10.77.0.3")[0], 1, "a and b are no peers")
    t.equal(b.run(f"ping -c 2 -W 5 {HOST}")[0], 0)


# Frames of one card's as fast as the switch takes them.
FLOOD = """
import socket, struct, sys, time
path, source, seconds = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), float(sys.argv[3])
frame = b"\\x02\\0\\0\\0\\0\\x99" + source + b"\\x88\\xb5" + bytes(1000)
burst = (struct.pack(">I", 12 + len(frame)) + bytes(12) + frame) * 16
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.connect(path)
print("connected", flush=True)
sys.stdin.readline()
end = time.monotonic() + seconds
while time.monotonic() < end:
    sock.sendall(burst)
"""


@limit(60)
def test_fairness(t):
    """Three cards flood at once: the switch takes about as much of each, and of one that begins later, too."""
    ports = [word for name, mac in MAC.items() for word in ("--port", name, "--mac", mac)]
    switch = t.use(Switch(t.folder, ports, "null"))
    with contextlib.ExitStack() as stack:
        cards = {name: stack.enter_context(subprocess.Popen([sys.executable, "-c", FLOOD, f"{t.folder}/{name}.sock", mac, "4"],
                                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE))
                 for name, mac in MAC.items()}
        for card in cards.values():
            stack.callback(card.kill)
            t.equal(card.stdout.readline(), b"connected\n")
        for late, card in zip((0, 0, 0.5), cards.values()):
            time.sleep(late)
            card.stdin.write(b"\n")
            card.stdin.flush()
        before = {name: switch.show(name)["received"] for name in MAC}
        time.sleep(2.5)
        taken = {name: switch.show(name)["received"] - before[name] for name in MAC}
    share = {name: n / sum(taken.values()) for name, n in taken.items()}
    t.log("frames taken: " + ", ".join(f"{name} {taken[name]} ({share[name]:.2f})" for name in MAC))
    assert sum(taken.values()) > 1000, taken
    # Who sends little on a busy machine had no processor; who is starved sends next to nothing.
    assert min(share.values()) > 0.02, f"one is starved: {taken}"


@limit(60)
def test_chains(t):
    """The chains of ports have parameters and commands as those of cards, and what was set outlives the process."""
    switch = t.use(Switch(t.folder, ["--port", "a", "--mac", MAC["a"]],
                          "nat outer=192.0.2.10/24 router=192.0.2.1 inner=10.0.2.1/24 | null"))
    switch.devtap("set", "uplink", "nat", "forward=tcp:8080:10.0.2.15:80")
    switch.devtap("do", "uplink", "nat", "status")
    first = switch.show("a")["pid"]
    for words, said in ((("set", "uplink", "nat", "forward=nonsense"), "forward"),
                        (("set", "nobody", "nat", "forward="), "nobody"),
                        (("do", "uplink", "nat", "no-such-verb"), "no-such-verb"),
                        (("resize", "a", "1G"), "no disk"), (("insert", "a", "top", "rate"), "no chain")):
        done = switch.devtap(*words, check=False)
        assert done.returncode and said in done.stderr, (words, done.stderr)
    t.equal(switch.show("a")["pid"], first, "the process")
    os.kill(first, signal.SIGKILL)
    wait_for("a successor", lambda: again(switch) not in (None, first))
    t.equal(switch.parameters("uplink", "nat")["forward"], "tcp:8080:10.0.2.15:80", "what was set before")
    switch.devtap("set", "uplink", "nat", "forward=")
    second = again(switch)
    os.kill(second, signal.SIGKILL)
    wait_for("a successor", lambda: again(switch) not in (None, second))
    t.equal(switch.parameters("uplink", "nat")["forward"], "", "what was set to nothing")
    os.kill(again(switch), signal.SIGKILL)  # and in the pause before the next one
    switch.child.terminate()
    t.equal(switch.child.wait(10), 0, "status")
    assert not list(t.folder.glob("*.sock")), list(t.folder.glob("*.sock"))


def again(switch):
    """The process of the switch; None while there is none."""
    try:
        return switch.show("a")["pid"]
    except subprocess.CalledProcessError:
        return None


@limit(60)
def test_bad_ports(t):
    """What cannot be is said in a line."""
    for words, said in (([], "--sockets is missing"), (["--sockets", t.folder], "without a port"),
                        (["--sockets", t.folder, "--port", "a"], "port a: --mac"),
                        (["--sockets", t.folder, "--mac", "52:54:00:00:00:01"], "must follow its --port"),
                        (["--sockets", t.folder, "--port", "a", "--mac", "52:54:00:00:00:01", "--trunk", "0"], "--trunk"),
                        (["--sockets", t.folder, "--port", "a", "--mac", "52:54:00:00:00:01", "--uplink",
                          "packet ifname=no0"], "'no0': No such device")):
        done = subprocess.run([paths.devtap(), "switch", *words], check=False, timeout=30, text=True,
                              stderr=subprocess.PIPE, env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder)))
        assert done.returncode and said in done.stderr, done.stderr
        assert not list(t.folder.glob("*.sock")), list(t.folder.glob("*.sock"))
