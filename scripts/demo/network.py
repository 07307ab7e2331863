"""A soft network card: the guest floods, and packet symmetry ends that."""

import subprocess
import time

from devtap_test import card as cards

from show import show, step

NETWORK = """mkdir -p /run/systemd/network
printf '[Match]\\nType=ether\\n[Network]\\nAddress=10.77.0.2/24\\nLinkLocalAddressing=no\\n' \\
    >/run/systemd/network/card.network
systemctl start systemd-networkd && /lib/systemd/systemd-networkd-wait-online --timeout=30"""

FLOOD = """fio --name=flood --ioengine=net --protocol=udp --hostname=10.77.0.1 --port=9999 --rw=write --bs=200 \
    --size=1t --time_based --runtime=600 >/dev/null 2>&1 & echo $! >/run/flood.pid"""

TRANSFER = """fio --name=transfer --ioengine=net --protocol=tcp --hostname=10.77.0.1 --port=5001 --rw=write --bs=64k \
    --size=16m >/dev/null"""

HOST = """
import socket, threading, time
deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
deaf.bind(("10.77.0.1", 9999))
server = socket.create_server(("10.77.0.1", 5001))
print("listens", flush=True)
while True:
    peer, _ = server.accept()
    begun, n = time.monotonic(), 0
    while chunk := peer.recv(1 << 16):
        n += len(chunk)
    print(n, time.monotonic() - begun, flush=True)
"""


def serve(stack, folder):
    """A network of its own with a card in it, or None and why not."""
    try:
        cards.require()
    except cards.Skip as reason:
        show(f"without a network card: {reason}")
        return None, None
    space = stack.enter_context(cards.Namespace(folder))
    chain = f"antispoof mac={cards.MAC} ip4=10.77.0.2 | rate tx-bits=200M | tap ifname=card0"
    card = stack.enter_context(cards.Card(chain, folder, space.enter))
    show(f"devtap run --net card --socket {card.socket} \\\n    '{chain}'")
    return space, card


def per_second(card, seconds=3):
    """Packets that reach the wire."""
    before = card.ops("tap", "transmit")["requests"]
    time.sleep(seconds)
    return (card.ops("tap", "transmit")["requests"] - before) / seconds


def flood(stack, guest, space, card):
    """The guest floods; an extension that is put into its card ends that, and not a transfer."""
    step("network: the guest transfers by TCP, then floods by UDP, and a limiter is put in while it does")
    guest.check(NETWORK, 60)
    host = stack.enter_context(subprocess.Popen([*space.enter, "python3", "-c", HOST], text=True,
                                                stdout=subprocess.PIPE))
    stack.callback(host.kill)
    host.stdout.readline()

    def transfer(when):
        guest.check(TRANSFER, 120)
        size, seconds = (float(word) for word in host.stdout.readline().split())
        show(f"TCP transfer {when:<32} {size / seconds / 2 ** 20:7.1f} MiB/s")

    transfer("alone")
    guest.check(FLOOD)
    time.sleep(1)
    show(f"UDP flood, nobody answers                     {per_second(card):7.0f} packets/s on the wire")
    card.devtap("insert", "card", "below:antispoof", "symmetry")
    show("devtap insert card below:antispoof symmetry")
    time.sleep(2)
    show(f"the same flood                                {per_second(card):7.0f} packets/s on the wire")
    transfer("beside the flood")
    guest.check("kill $(cat /run/flood.pid)")
    show("\n".join(line for line in card.devtap("stats", "card").splitlines()
                   if not line.endswith(": 0")))
