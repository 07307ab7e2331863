"""The backs `stream` and `dgram`: two real guests on one cable, one of them on QEMU's own socket netdevs."""

import subprocess

from devtap_test import paths
from devtap_test.card import Card, arguments, free_port, init, send
from devtap_test.case import limit
from devtap_test.process import free_socket_path

PEER_MAC = "52:54:00:00:00:02"


def peer_guest(t, netdev):
    """A guest whose card has nothing to do with devtap."""
    return t.guest(root="initramfs", wait=False,
                   extra=["-netdev", netdev, "-device", f"virtio-net-pci,netdev=n0,mac={PEER_MAC}"])


def our_guest(t, card):
    """A guest on a card of devtap's."""
    return t.guest(root="initramfs", wait=False, extra=arguments(card))


def bring_up(ours, peer):
    """Ours is 10.77.0.2, the peer 10.77.0.3."""
    for number, guest in ((2, ours), (3, peer)):
        guest.wait_for_shell()
        guest.check(init(number))


def ping(ours, count=3):
    """The peer answers our guest; the first may be lost while its address is looked for."""
    ours.check(f"ping -c 1 -W 5 10.77.0.3 || ping -c 1 -W 30 10.77.0.3; ping -c {count} -i 0.2 -W 30 10.77.0.3",
               timeout=120)


def both_ways(t, ours, peer, mib=4):
    """A transfer in each direction."""
    send(t, ours, peer, "10.77.0.3", mib)
    send(t, peer, ours, "10.77.0.2", mib)


@limit(150)
def test_stream(t):
    """QEMU's stream netdev listens; our worker is killed, comes back, and finds it again."""
    path = free_socket_path(t.folder, "cable.sock")
    peer = peer_guest(t, f"stream,id=n0,server=on,addr.type=unix,addr.path={path}")
    card = t.use(Card(f"stream address=unix:{path}", t.folder))
    ours = our_guest(t, card)
    bring_up(ours, peer)
    ping(ours)
    both_ways(t, ours, peer)
    t.equal(card.counters("stream")["tx-full"], 0)
    card.kill_worker()
    ping(ours)
    send(t, ours, peer, "10.77.0.3", 2)
    assert "sandbox" not in card.output(), card.output()


@limit(150)
def test_stream_listens(t):
    """The older socket netdev connects to us over TCP; it may go and come back."""
    port = free_port()
    card = t.use(Card(f"stream address=tcp:127.0.0.1:{port} listen=on", t.folder))
    ours = our_guest(t, card)
    for _ in range(2):
        peer = peer_guest(t, f"socket,id=n0,connect=127.0.0.1:{port}")
        if not ours.shell:
            ours.wait_for_shell()
            ours.check(init(2))
        peer.wait_for_shell()
        peer.check(init(3))
        ping(ours)
        peer.close()
    t.equal(card.counters("stream")["connects"], 2)


@limit(150)
def test_dgram_unix(t):
    """Unix datagrams, whose queue is short; the worker is killed, and finds the peer's socket again."""
    here, there = free_socket_path(t.folder, "a.sock"), free_socket_path(t.folder, "b.sock")
    card = t.use(Card(f"dgram local=unix:{here} remote=unix:{there}", t.folder))
    peer = peer_guest(t, f"dgram,id=n0,local.type=unix,local.path={there},remote.type=unix,remote.path={here}")
    ours = our_guest(t, card)
    bring_up(ours, peer)
    ping(ours)
    both_ways(t, ours, peer)
    t.equal(card.counters("dgram")["tx-full"], 0)
    card.kill_worker()
    ping(ours)


@limit(150)
def test_dgram_udp(t):
    """UDP, with the older socket netdev at the other end."""
    here, there = free_port(), free_port()
    card = t.use(Card(f"dgram local=udp:127.0.0.1:{here} remote=udp:127.0.0.1:{there}", t.folder))
    peer = peer_guest(t, f"socket,id=n0,udp=127.0.0.1:{here},localaddr=127.0.0.1:{there}")
    ours = our_guest(t, card)
    bring_up(ours, peer)
    ping(ours)
    both_ways(t, ours, peer, mib=2)


@limit(60)
def test_bad_address(t):
    """What cannot be opened is said in a line, and nothing is left behind."""
    for chain, said in (("stream address=/run/x", "unix:PATH"),
                        ("stream address=unix:/no/such/x listen=on", "No such file"),
                        ("dgram local=udp:127.0.0.1:7 remote=unix:/x", "same kind")):
        done = subprocess.run([paths.devtap(), "run", "--net", "card", "--socket", t.folder / "card.sock", chain],
                              check=False, timeout=120, text=True, stderr=subprocess.PIPE)
        assert done.returncode and said in done.stderr, done.stderr
        assert not (t.folder / "card.sock").exists()
        t.equal(done.stderr.count("\n"), 1, done.stderr)
