"""The back `vpn`: two guests of ours and one whose own kernel speaks WireGuard, which is the protocol's other implementation."""

import os
import subprocess
import threading

from devtap_test import wait_for
from devtap_test.card import Card, arguments, free_port, init, listens, send
from devtap_test.case import limit
from devtap_test.process import Process
from devtap_test.toolbox import initramfs_with

MARK = b"this must not be seen on the way"
KERNEL = """
modprobe wireguard; modprobe ip_gre; modprobe virtio_net
/usr/bin/ip link set eth0 up; /usr/bin/ip addr add 10.0.2.15/24 dev eth0; /usr/bin/ip route add default via 10.0.2.2
/usr/bin/ip link add wg0 type wireguard; wg setconf wg0 /tmp/wg.conf
/usr/bin/ip addr add 10.9.0.3/24 dev wg0; /usr/bin/ip link set wg0 mtu 1440 up
/usr/bin/ip link add lan0 type gretap local 10.9.0.3 remote 10.9.0.1
/usr/bin/ip link set lan0 mtu 1402 up; /usr/bin/ip addr add 10.77.0.4/24 dev lan0
"""


class Side:
    """A key pair and a port."""

    def __init__(self):
        self.port = free_port()
        self.private = self._wg("genkey", b"")
        self.public = self._wg("pubkey", self.private.encode())

    @staticmethod
    def _wg(verb, text):
        return subprocess.run(["wg", verb], input=text, check=True, stdout=subprocess.PIPE).stdout.decode().strip()

    def interface(self, *more):
        """The first section of its configuration."""
        return "\n".join(["[Interface]", f"PrivateKey = {self.private}", *more]) + "\n"

    def peer(self, endpoint, *more):
        """The section that another one has for it."""
        return "\n".join(["[Peer]", f"PublicKey = {self.public}",
                          *([f"Endpoint = {endpoint}"] if endpoint else []), *more]) + "\n"


def vpn_card(t, name, side, text):
    """A card with this configuration."""
    conf = t.folder / f"{name}.conf"
    conf.touch(0o600)
    conf.write_text(text)
    return t.use(Card(f"vpn conf={conf} local=127.0.0.1:{side.port}", t.folder, card=name))


def kernel_guest(t, kernel, ours):
    """A guest on QEMU's own network, where 10.0.2.2 is this host; its peer is our card."""
    guest = t.guest(root="initramfs", wait=False, extra=[
        "-initrd", initramfs_with(t.folder, ["wg", "ip"]),
        "-netdev", f"user,id=n0,hostfwd=udp:127.0.0.1:{kernel.port}-10.0.2.15:51820",
        "-device", "virtio-net-pci,netdev=n0"])
    text = kernel.interface("ListenPort = 51820") + ours.peer(f"10.0.2.2:{ours.port}", "AllowedIPs = 10.9.0.1/32")
    return guest, f"cat > /tmp/wg.conf <<'END'\n{text}END\n" + KERNEL


def ping(guest, number, count=2):
    """Another one answers; the first may be lost while its address is looked for."""
    guest.check(f"ping -c 1 -W 5 10.77.0.{number} || ping -c 1 -W 30 10.77.0.{number}; "
                f"ping -c {count} -i 0.2 -W 30 10.77.0.{number}", timeout=120)


def mtu_of(card):
    """What VMMs are to tell their guests."""
    return card.show()["card"]["mtu"]


@limit(150)
def test_mesh(t):
    """Frames reach the peer that they are for, whole and unread, also while workers die; and no peer's frames another's."""
    a, b, k = Side(), Side(), Side()
    card_a = vpn_card(t, "a", a, a.interface("Address = 10.9.0.1/24") + b.peer(f"127.0.0.1:{b.port}") +
                      k.peer(None, "AllowedIPs = 10.9.0.3/32"))
    card_b = vpn_card(t, "b", b, b.interface() + a.peer(f"127.0.0.1:{a.port}"))
    t.equal((mtu_of(card_a), mtu_of(card_b)), (1402, 1426), "what fits")
    guest_a = t.guest(root="initramfs", wait=False, extra=arguments(card_a, mtu=1402))
    guest_b = t.guest(root="initramfs", wait=False, extra=arguments(card_b, mac="52:54:00:00:00:02"))
    guest_k, commands = kernel_guest(t, k, a)
    seen = t.folder / "seen.pcap"
    t.use(Process(["tcpdump", "-i", "lo", "-U", "-w", seen, f"udp port {a.port} or udp port {b.port}"], t.folder,
                  ready_line="listening on"))
    for number, guest in ((2, guest_a), (3, guest_b)):
        guest.wait_for_shell()
        guest.check(init(number))
    guest_k.wait_for_shell()
    guest_k.check(commands)
    t.equal(guest_a.check("cat /sys/class/net/eth0/mtu").strip(), "1402", "what a guest was told")

    ping(guest_a, 3)
    ping(guest_b, 2)
    ping(guest_a, 4)
    ping(guest_k, 2)
    guest_b.check("ping -c 2 -s 1472 -W 30 10.77.0.2")  # which was told nothing: in fragments
    assert "host_mtu=1426" in card_b.output(), card_b.output()
    guest_a.check("ping -c 2 -s 1374 -W 30 10.77.0.4")  # the whole MTU
    assert guest_b.run("ping -c 2 -W 1 10.77.0.4")[0], "a frame went from one peer to another"
    guest_b.check(f"echo '{MARK.decode()}' > /tmp/mark; yes \"$(cat /tmp/mark)\" | head -c 100000 > /tmp/marks")
    guest_a.check("nc -l -p 5002 > /tmp/marks &")
    listens(guest_a, 5002)
    guest_b.check("nc 10.77.0.2 5002 < /tmp/marks")
    send(t, guest_a, guest_k, "10.77.0.4", 2)
    send(t, guest_k, guest_a, "10.77.0.2", 2)

    def die():
        for card in (card_a, card_b, card_a):
            card.kill_worker()
    deaths = threading.Timer(0.5, die)
    deaths.start()
    send(t, guest_a, guest_b, "10.77.0.3", 8)
    deaths.join()
    ping(guest_a, 3)
    ping(guest_a, 4)
    ping(guest_k, 2)

    counters = card_a.counters("vpn")
    t.log(counters, card_a.devtap("do", "a", "vpn", "peers"))
    t.equal([counters[name] for name in ("rx-forged", "rx-source", "rx-malformed", "tx-source", "cookies")], [0] * 5)
    wait_for("the traffic to be written", lambda: os.path.getsize(seen) > 8 << 20)
    assert MARK not in seen.read_bytes(), "plaintext on the way"
    for card in (card_a, card_b):
        assert "sandbox" not in card.output(), card.output()
        assert "event=peer-up" in card.output(), card.output()
