"""Live migration of a guest with a soft card: two QEMUs, each on a devtap of its own, and one bridge with both cards' interfaces.

The host's end of everything is at the bridge, which learns from what the guest says behind the other interface, as switches
do, where it is now.
"""

import json
import subprocess
import sys
import time

from devtap_test import wait_for
from devtap_test.card import INIT, Card, Namespace, arguments, ping, require
from devtap_test.case import limit
from devtap_test.load import noise
from devtap_test.migration import MEMORY, migrate

MIB = 1 << 20
GUEST, HOST = "10.77.0.2", "10.77.0.1"
RATE, SUPER_FRAME = 24_000_000, 65536 * 8  # bits a second; bits

# Asks the guest each 20 ms whether it is there, and listens at both interfaces for what announces it: until its input has
# a line, and then until the last answer. Prints when each ping that nobody answered was sent, and when what was announced where.
OBSERVE = f"""
import json, select, socket, struct, sys, time
pings = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
pings.connect(("{GUEST}", 0))
listeners = {{}}
for name in ("card0", "card1"):
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) # of one protocol a bridge leaves nothing
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    sock.bind((name, 3))
    listeners[sock] = name
print("listens", flush=True)
sent, lost, announced, number, end, due = 0, {{}}, [], 0, None, 0
def echo(n):
    head = struct.pack(">BBHHH", 8, 0, 0, 77, n)
    total = sum(struct.unpack(">4H", head))
    return head[:2] + struct.pack(">H", ~((total & 0xffff) + (total >> 16)) & 0xffff) + head[4:]
while not end or (lost and time.time() < end):
    if not end and time.time() >= due:
        number = (number + 1) % 65536
        lost[number] = due = time.time()
        due += 0.02
        sent += 1
        pings.send(echo(number))
    ready = select.select([pings, sys.stdin if not end else pings, *listeners], [], [], max(0, due - time.time()) if not end else 0.5)[0]
    if pings in ready:
        data = pings.recv(200)[20:]
        if data[0] == 0 and data[4:6] == struct.pack(">H", 77):
            lost.pop(struct.unpack(">H", data[6:8])[0], None)
    for sock in set(ready) & set(listeners):
        frame, address = sock.recvfrom(64)
        if address[2] == socket.PACKET_OUTGOING:
            continue
        own = frame[12:14] == b"\\x08\\x06" and frame[28:32] == frame[38:42] == socket.inet_aton("{GUEST}")
        if own or frame[12:14] == b"\\x80\\x35":
            announced.append([time.time(), listeners[sock], "arp" if own else "rarp"])
    if sys.stdin in ready:
        sys.stdin.readline()
        end = time.time() + 20
print(json.dumps(dict(sent=sent, lost=sorted(lost.values()), announced=announced)), flush=True)
"""

# Sends back what it gets, not faster than a guest without hardware support can migrate; says how much that was so far when
# asked, and at the end.
ECHO = f"""
import select, socket, sys, time
server = socket.create_server(("{HOST}", 5001))
print("listens", flush=True)
sock, _ = server.accept()
total, open = 0, True
while open:
    ready = select.select([sock, sys.stdin], [], [])[0]
    if sys.stdin in ready:
        sys.stdin.readline()
        print(total, flush=True)
    if sock in ready:
        data = sock.recv(1 << 16)
        total += len(data)
        sock.sendall(data)
        open = bool(data)
        time.sleep(0.01)
sock.close()
print(total, flush=True)
sys.stdin.readline()
"""

# One connection, which lasts until told to stop.
TRANSFER = f"""
mkfifo /tmp/copy
sha256sum </tmp/copy >/tmp/sum-sent &
(n=0; while [ ! -e /tmp/stop ]; do cat /tmp/file; n=$((n + 1)); done; echo $n >/tmp/times) |
    tee /tmp/copy | nc {HOST} 5001 | sha256sum >/tmp/sum-back
touch /tmp/done
"""


class Program:
    """One of these in the namespace; a context."""

    def __init__(self, space, text):
        self.child = subprocess.Popen([*space.enter, sys.executable, "-c", text], text=True, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE)
        assert self.child.stdout.readline() == "listens\n"

    def tell(self, line):
        """What it is to know, without waiting."""
        self.child.stdin.write(f"{line}\n")
        self.child.stdin.flush()

    def ask(self, line):
        """What it answers."""
        self.tell(line)
        return self.child.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()


def sides(t, packed, chain, device="", append=""):
    """A bridge in a namespace, two cards at it, and a guest on each; the second one waits to be it."""
    require()
    space = t.use(Namespace(t.folder))
    space.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    space.run("sh", "-ec", f"ip addr flush dev card0; ip link add br0 type bridge; ip addr add {HOST}/24 dev br0; "
              "ip tuntap add dev card1 mode tap vnet_hdr; ip link set br0 up; "
              "for card in card0 card1; do ip link set $card master br0; ip link set $card up; done")
    cards, guests = [], []
    for number in range(2):
        cards.append(t.use(Card(chain.format(number), t.folder, space.enter, card=f"card{number}")))
        words = [word + (device if word.startswith("virtio-net-pci") else "") for word in arguments(cards[-1], packed)]
        guests.append(t.guest(root="initramfs", smp=2, mem=MEMORY, extra=words, append=append, incoming=number == 1))
    guests[0].check(INIT)
    ping(guests[0], 1)
    return space, cards, guests


def time_of(guest, name):
    """When QEMU said so last, by the host's clock."""
    guest.qmp.command("query-status")
    stamps = [event["timestamp"] for event in guest.qmp.events if event["event"] == name]
    return stamps[-1]["seconds"] + stamps[-1]["microseconds"] / 1e6


def judge_pings(t, seen, stopped, resumed, kind):
    """Nothing is lost but what was sent while the guest stood still, and the network was told where it is."""
    told = [stamp for stamp, card, what in seen["announced"] if card == "card1" and what == kind]
    assert told, f"no {kind} came from behind the other interface: {seen['announced']}"
    lost = seen["lost"]
    t.log(f"{seen['sent']} pings, {len(lost)} lost; stood still for {1e3 * (resumed - stopped):.0f} ms, first {kind} "
          f"{1e3 * (told[0] - resumed):.0f} ms later, {len(told)} in all")
    assert seen["sent"] > 20, seen
    # What waits for a guest without a processor when it stops is lost, too.
    beyond = [stamp for stamp in lost if not stopped - 1 < stamp < max(resumed, told[0]) + 1]
    t.equal(beyond, [], f"pings lost that were sent neither then nor around it ({stopped:.3f} to {told[0]:.3f})")


def migrated(t, packed, device, kind, group):
    """A connection and pings go on from one QEMU to the other, and the limit holds for all of it."""
    limit_of_both = f"rate tx-bits={RATE}" + (f" group={t.folder}/rate" if group else "")
    space, cards, (source, destination) = sides(t, packed, limit_of_both + " | tap ifname=card{}", device)
    source.check(f"{noise(1)} >/tmp/file")
    with Program(space, ECHO) as echo, Program(space, OBSERVE) as observer:
        begin = time.monotonic()
        source.check(f"cat >/tmp/transfer.sh <<'SH'\n{TRANSFER}\nSH\n(sh /tmp/transfer.sh >/dev/null 2>&1 &)")
        wait_for("the transfer", lambda: int(echo.ask("?")) > MIB)
        figures = migrate(source, destination)
        stopped, resumed = time_of(source, "STOP"), time_of(destination, "RESUME")
        t.log(f"downtime {figures['downtime']} ms, total {figures['total-time']} ms, "
              f"{figures['ram']['dirty-sync-count']} rounds, {figures['ram']['transferred'] // MIB} MiB")
        assert figures["ram"]["dirty-sync-count"] >= 2, "all went over in one round"
        source.close()
        t.equal(cards[0].stop(), 0, "the source's exit status")
        had = int(echo.ask("?"))
        wait_for("the transfer to go on", lambda: int(echo.ask("?")) > had + MIB, 60)
        destination.check("touch /tmp/stop; while ! [ -s /tmp/times ]; do sleep 0.1; done", 60)
        size = int(destination.check("cat /tmp/times")) * MIB
        t.equal(echo.child.stdout.readline().strip(), str(size), "bytes that the host got")
        destination.check("while ! [ -e /tmp/done ]; do sleep 0.1; done", 60)
        seconds = time.monotonic() - begin
        seen = json.loads(observer.ask("end"))
    sums = [destination.check(f"cat /tmp/sum-{which}").split()[0] for which in ("sent", "back")]
    t.equal(sums[1], sums[0], "what came back")
    judge_pings(t, seen, stopped, resumed, kind)
    t.log(f"{size * 8 / seconds / RATE:.2f} of the limit used")
    most = RATE * (seconds + 0.02) + 4 * SUPER_FRAME
    assert size * 8 <= most, f"{size * 8} bits in {seconds} s, and the limit allows {most:.0f}"
    ping(destination)
    t.equal(destination.run("dmesg | grep -i 'NETDEV WATCHDOG\\|virtio.*error\\|not a head'")[0], 1, "complaints")
    for card in cards:
        assert "broken" not in card.output(), card.output()


@limit(240)
def test_split(t):
    """The guest announces itself (GUEST_ANNOUNCE), and both cards are one group of `rate`."""
    migrated(t, packed=False, device="", kind="arp", group=True)


@limit(240)
def test_packed(t):
    """The guest knows nothing of announcements: the card at the destination sends reverse ARP in its name."""
    migrated(t, packed=True, device=",guest_announce=off", kind="rarp", group=False)


# Sends as much as its input says, and says when the guest's kernel has it.
SEND = f"""
import array, fcntl, os, socket, sys, termios, time
server = socket.create_server(("{HOST}", 5002))
print("listens", flush=True)
sock, _ = server.accept()
print("accepted", flush=True)
data = os.urandom(int(sys.stdin.readline()))
sock.sendall(data)
left = array.array("i", [1])
while left[0]:
    fcntl.ioctl(sock, termios.TIOCOUTQ, left)
    time.sleep(0.02)
print(__import__("hashlib").sha256(data).hexdigest(), flush=True)
sys.stdin.readline()
sock.close()
sys.stdin.readline()
"""


def logged(t, packed):
    """What the card writes into memory that has gone over already arrives all the same.

    A program of the guest's that is stopped has a connection, and bytes for it come after the first round: no
    processor touches what they are in until the guest runs at the destination.
    """
    space, _cards, (source, destination) = sides(t, packed, "tap ifname=card{}", append="init_on_alloc=0")
    source.check("(while [ ! -e /tmp/clean ]; do head -c 8M /dev/urandom >/tmp/dirt; done >/dev/null 2>&1 &)")
    source.check("echo '4096 16777216 16777216' >/proc/sys/net/ipv4/tcp_rmem")
    with Program(space, SEND) as sender:
        source.check(f"(nc {HOST} 5002 >/tmp/got & echo $! >/tmp/reader; wait; touch /tmp/done) >/dev/null 2>&1 &")
        t.equal(sender.child.stdout.readline(), "accepted\n")
        source.check("kill -STOP $(cat /tmp/reader)")
        digests = []
        migrate(source, destination, rounds=4, bandwidth=40 * MIB, midway=lambda: digests.append(sender.ask(2 * MIB)))
        t.equal(destination.check("wc -c </tmp/got").strip(), "0", "bytes that were read before")
        sender.tell("close")
        destination.check("touch /tmp/clean; kill -CONT $(cat /tmp/reader); "
                          f"while [ $(wc -c </tmp/got) -lt {2 * MIB} ]; do sleep 0.1; done", 60)
    t.equal(destination.check("sha256sum </tmp/got").split()[0], digests[0], "what came before the migration ended")


@limit(180)
def test_log_split(t):
    logged(t, packed=False)


@limit(180)
def test_log_packed(t):
    logged(t, packed=True)
