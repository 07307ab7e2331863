"""`route`: a real guest behind the host's own tables, IPv4 and IPv6, beyond the host too; worker and interface are lost."""

import os
import subprocess

from devtap_test import paths, wait_for
from devtap_test.card import Card, Namespace, arguments, require, survive
from devtap_test.case import limit
from devtap_test.process import Process

ADDRESSES = "10.66.0.5/32,fd66::5/128"
INIT = "modprobe virtio_net; ip link set eth0 up; ip addr add 10.66.0.5/24 dev eth0; " \
    "ip route add default via 10.66.0.1; ip addr add fd66::5/64 dev eth0; ip -6 route add default via fe80::1 dev eth0"

REFUSED = """
import socket
try:
    socket.create_connection(("10.66.0.5", 9), 5)
except ConnectionRefusedError:
    print("refused")
"""


def far_host(t, space):
    """A host that is reached through the first one: 10.88.0.2 and fd88::2."""
    far = t.use(Process(["unshare", "-n", "sh", "-c", "echo made; exec sleep 1000"], t.folder, name="far",
                        ready_line="made"))
    script = f"""set -e
        ip link add up0 type veth peer name far0 netns {far.pid}
        ip addr add 10.88.0.1/24 dev up0; ip -6 addr add fd88::1/64 dev up0 nodad; ip link set up0 up
        nsenter -t {far.pid} -n sh -ec 'ip addr add 10.88.0.2/24 dev far0; ip -6 addr add fd88::2/64 dev far0 nodad
            ip link set far0 up; ip route add default via 10.88.0.1; ip -6 route add default via fd88::1'
        echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"""
    space.run("sh", "-c", script)


def pings(guest):
    """The host and the one behind it answer."""
    for address in ("10.77.0.1", "10.88.0.2", "fd88::2"):
        guest.check(f"ping -c 1 -W 5 {address} || ping -c 2 -W 30 {address}", timeout=120)


@limit(120)
def test_route(t):
    """Pings, TCP over the worker's death, an interface that is deleted, and what the guest may not send."""
    require()
    space = t.use(Namespace(t.folder))
    far_host(t, space)
    card = t.use(Card(f"route address={ADDRESSES}", t.folder, space.enter))
    guest = t.guest(root="initramfs", extra=arguments(card))
    guest.check(INIT)
    pings(guest)
    t.equal(space.run("ip", "route", "show", "10.66.0.5").split()[:3], ["10.66.0.5", "dev", "route0"])
    t.equal(guest.run("arping -D -c 1 -w 2 -I eth0 10.66.0.5")[0], 0, "nobody else has the guest's address")
    before = card.counters("route")["foreign"]
    guest.check("ip addr add 10.66.0.6/24 dev eth0")
    t.equal(guest.run("ping -c 1 -W 1 -I 10.66.0.6 10.77.0.1")[0], 1, "an address that is not the guest's")
    assert card.counters("route")["foreign"] > before, "what was dropped is counted"
    survive(t, space, card, guest, "10.66.0.5")
    card.kill_worker()
    t.equal(space.run("python3", "-c", REFUSED), "refused\n", "a worker that knows where the guest is, which is silent")
    interface = space.run("ip", "route", "show", "10.66.0.5").split()[2]
    space.run("ip", "link", "del", interface)
    wait_for("the event", lambda: "interface-gone" in card.output())
    t.equal(guest.run("ping -c 1 -W 1 10.77.0.1")[0], 1, "nobody is reached")
    card.kill_worker()
    pings(guest)
    assert "sandbox" not in card.output(), card.output()
    card.stop()
    t.equal(space.run("ip", "route", "show", "10.66.0.5"), "", "what is left of it")


@limit(60)
def test_refused(t):
    """What cannot be is said in a line, and nothing stays."""
    require()
    space = t.use(Namespace(t.folder))
    space.run("ip", "route", "add", "10.66.0.9", "dev", "card0")
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    for prefix, words, said in (([], "", "address"), ([], "address=10.66.0.300", "10.66.0.300"),
                                ([], "address=10.66.0.5/0", "all addresses"),
                                ([], "address=10.66.0.5 mac=03:00:00:00:00:01", "mac '03:"),
                                ([], "address=10.66.0.5 ifname=averyveryverylongname", "ifname"),
                                ([], "address=10.66.0.5 ifname=lo", "'lo'"),
                                ([], "address=10.66.0.9", "route to 10.66.0.9/32: File exists"),
                                (drop, "address=10.66.0.5", "CAP_NET_ADMIN")):
        done = subprocess.run([*space.enter, *prefix, paths.devtap(), "run", "--net", "card", "--socket",
                               t.folder / "card.sock", f"route {words}"], check=False, timeout=120, text=True,
                              stderr=subprocess.PIPE, env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder)))
        assert done.returncode and said in done.stderr, done.stderr
        t.equal(done.stderr.count("\n"), 1, done.stderr)
        assert not (t.folder / "card.sock").exists()
    assert "route" not in space.run("ip", "-br", "link"), "an interface that stayed"
