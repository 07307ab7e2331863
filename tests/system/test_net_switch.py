"""`devtap switch`: two guests and a hostile card in one switch, with the host's own stack at its uplink."""

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import threading
import time

from devtap_test import paths, wait_for
from devtap_test.card import Card, Namespace, Switch, arguments, init, large_capture, require
from devtap_test.case import limit

MAC = {"a": "52:54:00:00:00:02", "b": "52:54:00:00:00:03", "c": "52:54:00:00:00:04"}
HOST = "10.77.0.1"
SO_SNDBUFFORCE = 32  # Linux's; Python does not name it


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
    apart(t, switch, cards, guests)
    return space, switch, guests


def memories(pid):
    """The inodes of the VMs' memory that a process maps."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps:
        return {line.split()[4] for line in maps if "/memfd:memory-backend" in line}


def apart(t, switch, cards, guests):
    """The worker of a card maps the memory of its own VM, and no other's; the switch maps nobody's."""
    own = [memories(guest.process.pid) for guest in guests]
    t.equal([len(each) for each in own], [1, 1], "memories of a VMM")
    assert own[0] != own[1], own
    t.equal([memories(card.show()["worker"]) for card in cards], own, "memory that the workers map")
    t.equal(memories(switch.show("a")["pid"]), set(), "memory that the switch maps")


def ping(guest, address, count=3):
    """Somebody answers; the first may be lost while the address is looked for."""
    guest.check(f"ping -c 1 -W 5 {address} || ping -c 1 -W 30 {address}; ping -c {count} -i 0.2 -W 30 {address}",
                timeout=120)


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
    b.check(f"ip neigh flush dev eth0; ping -c 1 -W 30 {HOST}")
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


class Flood(threading.Thread):
    """A peer's frame, again and again; a context."""

    def __init__(self, peer, frame):
        super().__init__()
        self.peer, self.frame, self.sent, self.ending = peer, frame, 0, False

    def run(self):
        while not self.ending:
            self.peer.send(self.frame)
            self.sent += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ending = True
        self.join()


@limit(180)
def test_flood(t):
    """A card floods the uplink with all it has: a guest's answers come all the same, and its TCP goes on."""
    _space, switch, (a, b) = start(t, group=False)
    ping(a, HOST)
    peer = Peer(t.folder / "c.sock")
    frame = octets("02:00:00:00:00:99") + octets(MAC["c"]) + b"\x88\xb5" + bytes(1400)
    a.check(f"(ping -c 40 -i 0.1 -W 30 {HOST} > /tmp/pings 2>&1; touch /tmp/pinged) &")
    with Flood(peer, frame) as flood:
        a.check("while ! [ -e /tmp/pinged ]; do sleep 0.2; done")
        wait_for("a flood", lambda: switch.show("c")["received"] > 10000)
    lost = a.check("grep -o '[0-9]*% packet loss' /tmp/pings")
    assert int(lost.split("%")[0]) <= 5, f"{lost}, and c sent {flood.sent} frames"
    t.equal(switch.show("a")["dropped_full"], 0, "of a's")
    t.equal(a.run("ping -c 2 -W 2 10.77.0.3")[0], 1, "a and b are no peers")
    t.equal(b.run(f"ping -c 2 -W 30 {HOST}")[0], 0)


def fill(path, frame, most):
    """A card whose frames wait in its socket, `most` or as many as it takes; the socket, and how many they are."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 64 << 20)
    sock.connect(str(path))
    sock.settimeout(5)
    words = struct.pack(">I", 12 + len(frame)) + bytes(12) + frame
    for _ in range(most):
        sock.sendall(words)
    return sock


def read_until(sock, source, count):
    """What comes out until so many frames of that source did: their lengths, by source."""
    data, lengths = b"", {}
    sock.settimeout(30)
    while len(lengths.get(source, ())) < count:
        chunk = sock.recv(1 << 20)
        assert chunk, "the switch has closed its uplink"
        data += chunk
        while len(data) >= 4 and len(data) >= 4 + struct.unpack_from(">I", data)[0]:
            length = struct.unpack_from(">I", data)[0]
            lengths.setdefault(data[22:28], []).append(length - 12)
            data = data[4 + length:]
    return lengths


@limit(60)
def test_fairness(t):
    """Two cards flood the uplink with large frames, and a third one has small ones: of what comes out until all of its are
    through it has its third, and none is lost.

    All frames are in the sockets before the switch may read the first one, and they are counted in the order in which they come
    out: how fast anybody was has no part in it. First come, first served would give the third card a thirteenth.
    """
    victim, count, size, flood = "a", 240, 1400, 8000
    path = t.folder / "up.sock"
    with contextlib.ExitStack() as stack:
        ports = [word for name, mac in MAC.items() for word in ("--port", name, "--mac", mac)]
        switch = t.use(Switch(t.folder, ports, f"stream address=unix:{path} listen=on vnet=on"))
        uplink = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        uplink.connect(str(path))
        worker = switch.show(victim)["pid"]
        os.kill(worker, signal.SIGSTOP)
        for name, mac in MAC.items():
            length = size if name == victim else flood
            frame = octets("02:00:00:00:00:99") + octets(mac) + b"\x88\xb5" + bytes(length - 14)
            stack.enter_context(fill(t.folder / f"{name}.sock", frame, count if name == victim else 1000))
        os.kill(worker, signal.SIGCONT)
        lengths = read_until(uplink, octets(MAC[victim]), count)
    taken = {name: sum(lengths.get(octets(mac), ())) for name, mac in MAC.items()}
    t.log("bytes that came out: " + ", ".join(f"{name} {taken[name]}" for name in MAC))
    t.equal(taken[victim], count * size, "bytes of the third one's")
    # A turn is 16 KiB; 64 frames may have left for the uplink before the third one's first came in.
    for name in set(MAC) - {victim}:
        assert taken[name] <= 1.1 * taken[victim] + (32 << 10) + 64 * flood, f"{name} had more than its share: {taken}"
    assert sum(taken.values()) > 2 * taken[victim], f"nobody floods: {taken}"


@limit(60)
def test_uplink_that_connects(t):
    """An uplink whose back connects, and connects again, from a process that can open nothing any more."""
    path = t.folder / "up.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(30)
        t.use(Switch(t.folder, ["--port", "a", "--mac", MAC["a"]], f"stream address=unix:{path} vnet=on"))
        peer = Peer(t.folder / "a.sock")
        frame = octets("02:00:00:00:00:99") + octets(MAC["a"]) + b"\x88\xb5" + bytes(100)
        for _ in range(2):
            uplink, _ = listener.accept()
            with uplink:
                uplink.settimeout(1)

                def arrives(end=uplink):
                    peer.send(frame)
                    try:
                        return frame in end.recv(1 << 16)
                    except TimeoutError:
                        return False
                wait_for("a frame", arrives)


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
    t.equal(switch.child.wait(120), 0, "status")
    assert not list(t.folder.glob("*.sock")), list(t.folder.glob("*.sock"))


def shown(switch, port, none):
    """What is told of a port; `none` while there is no process to ask."""
    try:
        return switch.show(port)
    except subprocess.CalledProcessError:
        return none


def again(switch):
    """The process of the switch; None while there is none."""
    return shown(switch, "a", {}).get("pid")


@limit(180)
def test_uplink_vanishes(t):
    """An uplink's interface is deleted and the switch's process dies: the cards reach each other all the same, and when the interface is
    there again, so is the uplink."""
    require()
    space = t.use(Namespace(t.folder))
    link = "ip link add card1 type veth peer name far1; ip link set card1 up; ip link set far1 up"
    # Else the interfaces have something to say themselves, and what arrives is not the card's.
    quiet = "! cd /proc/sys/net/ipv6/conf || for each in all default; do echo 1 > $each/disable_ipv6; done; "
    space.run("sh", "-ec", quiet + link)
    ports = [word for name in "ab" for word in ("--port", name, "--mac", MAC[name], "--group", "web")]
    switch = t.use(Switch(t.folder, ports, "packet ifname=card1", space.enter))
    space.run("ip", "link", "del", "card1")
    os.kill(again(switch), signal.SIGKILL)
    wait_for("a successor without it", lambda: "the switch goes on without it" in switch.output() and again(switch))
    if "not open within" not in switch.output():  # a busy machine takes its time
        assert "'card1': No such device" in switch.output(), switch.output()
    t.equal(switch.show("uplink")["away"], True)
    assert "uplink-away" in switch.devtap("events", "uplink").stdout
    peers = {name: Peer(t.folder / f"{name}.sock") for name in "ab"}
    frame = octets(MAC["b"]) + octets(MAC["a"]) + b"\x88\xb5" + bytes(100)
    peers["a"].send(frame)
    wait_for("a's frame at b", lambda: frame in peers["b"].frames())

    space.run("sh", "-ec", link)
    wait_for("the uplink", lambda: "away" not in shown(switch, "uplink", {"away": True}))
    peer = Peer(t.folder / "a.sock")
    frame = octets("02:00:00:00:00:99") + octets(MAC["a"]) + b"\x88\xb5" + bytes(1000)

    def arrives():
        peer.send(frame)
        [far] = json.loads(space.run("ip", "-s", "-j", "link", "show", "far1"))
        return far["stats64"]["rx"]["bytes"] >= len(frame)
    wait_for("a frame at the other end", arrives)
    switch.child.terminate()
    t.equal(switch.child.wait(120), 0, "status")


def write_captures(folder, count=1):
    """A pcap file of a frame, and a chain that ends in it, below captures."""
    path = folder / "frames.pcap"
    frame = b"\xff" * 6 + octets("02:00:00:00:00:99") + b"\x88\xb5" + bytes(46)
    path.write_bytes(struct.pack("<IHHiIIIIIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1, 0, 0, len(frame), len(frame)) + frame)
    return path, " | ".join([f"capture out={folder}/c{i}.pcapng" for i in range(count)] + [f"pcap in={path}"])


def lose(switch, *uplinks):
    """Kills the process; its successor goes on without these."""
    before = again(switch)
    os.kill(before, signal.SIGKILL)
    wait_for("a successor", lambda: again(switch) not in (None, before))
    for uplink in uplinks:
        wait_for(uplink, lambda name=uplink: shown(switch, name, {}).get("away"))


@limit(180)
def test_uplinks_that_hang(t):
    """Two uplinks whose tries do not end keep nobody waiting: ports come and go. And an uplink comes back though somebody asks all the time."""
    path, chain = write_captures(t.folder)
    other, third = t.folder / "other.pcap", t.folder / "third.pcap"
    for each in (other, third):
        each.write_bytes(path.read_bytes())
    switch = t.use(Switch(t.folder, ["--uplink", f"pcap in={other}", "--vlan", "10", "--uplink", f"pcap in={third}", "--vlan", "20",
                                     "--port", "a", "--mac", MAC["a"]], chain))
    third.rename(t.folder / "gone")
    path.unlink()
    other.unlink()
    lose(switch, "uplink", "uplink2", "uplink3")
    for each in (path, other):  # nobody writes to them, and whoever opens one waits
        os.mkfifo(each)
    for _ in range(4):
        for words in (("add-port", "a", "--port", "b", "--mac", MAC["b"]), ("remove-port", "b")):
            done = switch.change(*words, check=False)
            assert done.returncode == 0, done.stderr
        time.sleep(1)
    (t.folder / "gone").rename(third)

    def back():
        for number in range(10):
            switch.devtap("set", "a", "stream", f"no-such={number}", check=False)
            switch.change("add-port", "a", "--port", "b", "--mac", MAC["b"], check=False)
            switch.change("remove-port", "b", check=False)
        return not shown(switch, "uplink3", {"away": True}).get("away")
    wait_for("the third", back)
    t.equal(switch.show("uplink")["away"], True)


@limit(180)
def test_late_answer(t):
    """A port whose socket comes too late is not there, now or with the next process."""
    switch = t.use(Switch(t.folder, ["--port", "a", "--mac", MAC["a"]]))
    os.kill(switch.pid, signal.SIGSTOP)
    try:
        done = switch.change("add-port", "a", "--port", "b", "--mac", MAC["b"], check=False)
    finally:
        os.kill(switch.pid, signal.SIGCONT)
    assert done.returncode and "does not answer" in done.stderr, done.stderr
    switch.change("add-port", "a", "--port", "c", "--mac", MAC["c"])
    assert not (t.folder / "b.sock").exists()
    Peer(t.folder / "c.sock")
    lose(switch)
    t.equal(shown(switch, "b", None), None, "a port that nobody has")
    switch.change("add-port", "a", "--port", "b", "--mac", MAC["b"])


@limit(180)
def test_uplink_that_cannot_begin(t):
    """An uplink can be opened alone, but not beside all else, for want of descriptors: the switch goes on without it, and with it when
    there are more."""
    path, chain = write_captures(t.folder, 14)
    switch = t.use(Switch(t.folder, [word for i in range(40) for word in ("--port", f"p{i}", "--mac", f"52:54:00:00:01:{i:02x}")] +
                          ["--port", "a", "--mac", MAC["a"]], chain))
    path.rename(t.folder / "gone")
    lose(switch, "uplink")
    enough = resource.prlimit(switch.pid, resource.RLIMIT_NOFILE)
    few = max(map(int, os.listdir(f"/proc/{again(switch)}/fd"))) + 12
    resource.prlimit(switch.pid, resource.RLIMIT_NOFILE, (few, enough[1]))
    (t.folder / "gone").rename(path)
    wait_for("two attempts", lambda: not switch.running() or switch.output().count("cannot begin with it") == 2)
    assert switch.running(), switch.output()
    wait_for("the switch", lambda: shown(switch, "uplink", {}).get("away"))
    resource.prlimit(switch.pid, resource.RLIMIT_NOFILE, enough)
    wait_for("the uplink", lambda: not shown(switch, "uplink", {"away": True}).get("away"))


@limit(60)
def test_file_too_large(t):
    """A layer's file has the largest size that the process may write: the switch serves all the same."""
    _path, chain = write_captures(t.folder)
    size = large_capture(t.folder / "c0.pcapng")
    switch = t.use(Switch(t.folder, ["--port", "a", "--mac", MAC["a"]], chain, ["prlimit", f"--fsize={size}"]))
    assert "capture-failed" in switch.devtap("events", "uplink").stdout


@limit(60)
def test_bad_ports(t):
    """What cannot be is said in a line."""
    for words, said in (([], "--sockets is missing"), (["--sockets", t.folder], "without a port"),
                        (["--sockets", t.folder, "--port", "a"], "port a: --mac"),
                        (["--sockets", t.folder, "--mac", "52:54:00:00:00:01"], "must follow its --port"),
                        (["--sockets", t.folder, "--port", "a", "--mac", "52:54:00:00:00:01", "--trunk", "0"], "--trunk"),
                        (["--sockets", t.folder, "--port", "a", "--mac", "00:00:00:00:00:00"], "is no card's address"),
                        (["--sockets", t.folder, "--port", "a", "--mac", "52:54:00:00:00:01", "--uplink",
                          "packet ifname=no0"], "'no0': No such device")):
        done = subprocess.run([paths.devtap(), "switch", *words], check=False, timeout=120, text=True,
                              stderr=subprocess.PIPE, env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder)))
        assert done.returncode and said in done.stderr, done.stderr
        assert not list(t.folder.glob("*.sock")), list(t.folder.glob("*.sock"))
