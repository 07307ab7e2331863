"""`nat`: a real guest behind an address of the host's network: TCP, UDP, ping, a forwarded port, and the worker's death."""

import json

from devtap_test.card import Card, Namespace, Server, Switch, arguments, listens, require, survive
from devtap_test.case import limit

CHAIN = "nat outer=10.77.0.50/24 router=10.77.0.1 inner=10.0.2.1/24 guest=10.0.2.15 forward=tcp:8080:80 | " \
    "tap ifname=card0"
INIT = "modprobe virtio_net; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.1"

# TFTP (RFC 1350, 2348): by UDP, and from another port than the one that was asked. Its file is 20,000 bytes of b"x".
TFTP = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("10.77.0.1", 69))
print("listens", flush=True)
while True:
    request, peer = server.recvfrom(1500)
    words = request[2:].split(bytes(1))
    size = int(words[words.index(b"blksize") + 1]) if b"blksize" in words else 512
    print(peer[0], size, flush=True)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("10.77.0.1", 0))
    sock.settimeout(120)
    if size != 512:
        sock.sendto(b"\\0\\6blksize\\0%d\\0" % size, peer)
        sock.recv(1500)
    for block, at in enumerate(range(0, 20001, size), 1):
        sock.sendto(b"\\0\\3" + block.to_bytes(2, "big") + b"x" * min(size, 20000 - at), peer)
        sock.recv(1500)
"""


def udp(t, space, guest):
    """A file by TFTP, in small datagrams and in fragmented ones."""
    with Server(space, TFTP) as server:
        for size in (512, 4000):
            guest.check(f"rm -f /tmp/got; tftp -g -b {size} -r any -l /tmp/got 10.77.0.1", timeout=120)
            t.equal(guest.check("tr -d x < /tmp/got | wc -c; wc -c < /tmp/got").split(), ["0", "20000"])
            t.equal(server.line(), f"10.77.0.50 {size}")


@limit(120)
def test_nat(t):
    """One guest, one boot: everything that the layer translates."""
    require()
    space = t.use(Namespace(t.folder))
    card = t.use(Card(CHAIN, t.folder, space.enter))
    guest = t.guest(root="initramfs", extra=arguments(card))
    guest.check(INIT)
    guest.check("ping -c 2 -i 0.2 -W 30 10.0.2.1")
    guest.check("ping -c 2 -i 0.2 -W 30 10.77.0.1")
    guest.check("ping -c 1 -s 3000 -W 30 10.77.0.1")
    t.equal(space.run("ip", "-4", "neigh", "show", "10.0.2.15"), "", "the host knows nothing of the inner address")
    udp(t, space, guest)
    hops = guest.check("traceroute -n -m 2 -q 1 -w 30 10.77.0.1") # by UDP, answered by ICMP errors
    assert "1  10.0.2.1 " in hops and "2  10.77.0.1 " in hops, hops
    guest.check("(echo hello | nc -l -p 80) > /tmp/said 2>&1 &")
    listens(guest, 80)
    heard = space.run("python3", "-c", "import socket; s = socket.create_connection(('10.77.0.50', 8080), 120); "
                      "print(s.recv(99).decode().strip())")
    t.equal(heard.strip(), "hello", "by the forwarded port")
    survive(t, space, card, guest, "10.77.0.50")
    status = json.loads(card.devtap("do", "--json", "card", "nat", "status"))
    t.equal(status["router"], "known")
    t.log(f"{status}, {card.counters('nat')}")
    assert "sandbox" not in card.output(), card.output()


ACCEPT = """
import socket
server = socket.create_server(("10.77.0.1", 5001))
print("listens", flush=True)
while True:
    sock, peer = server.accept()
    print(*peer, flush=True)
    sock.close()
"""


@limit(120)
def test_uplink(t):
    """Two guests in a switch, and nat on its uplink: one address for both, who reach each other by it."""
    require()
    space = t.use(Namespace(t.folder))
    macs = {"a": "52:54:00:00:00:0a", "b": "52:54:00:00:00:0b"}
    ports = [word for name, mac in macs.items() for word in ("--port", name, "--mac", mac)]
    switch = t.use(Switch(t.folder, ports, "nat outer=10.77.0.50/24 router=10.77.0.1 inner=10.0.2.1/24 "
                          "forward=tcp:8080:10.0.2.16:80 | tap ifname=card0", space.enter))
    cards = [t.use(Card(switch.chain(name), t.folder, card=f"net-{name}")) for name in macs]
    guests = [t.guest(root="initramfs", wait=False, extra=arguments(card, mac=mac))
              for card, mac in zip(cards, macs.values())]
    for number, guest in enumerate(guests):
        guest.wait_for_shell()
        guest.check(INIT.replace("10.0.2.15", f"10.0.2.{15 + number}"))
        guest.check("ping -c 1 -W 5 10.77.0.1 || ping -c 2 -W 30 10.77.0.1")
    with Server(space, ACCEPT) as server:
        for guest in guests:
            guest.check("nc -w 30 10.77.0.1 5001 < /dev/null")
            t.equal(server.line().split()[0], "10.77.0.50")
    first, second = guests
    second.check("(echo hello | nc -l -p 80) > /tmp/said 2>&1 &")
    listens(second, 80)
    t.equal(first.check("nc -w 30 10.77.0.50 8080 < /dev/null"), "hello", "by way of the outer address")
