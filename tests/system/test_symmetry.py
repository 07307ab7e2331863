"""The packet symmetry of a real guest: a flood of UDP is limited, and a transfer by TCP beside it is not."""

import json
import re
import subprocess

from devtap_test import wait_for
from devtap_test.card import ping, start, transfer
from devtap_test.case import limit

LISTENER = """
import socket
deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
deaf.bind(("10.77.0.1", 9999))
print("listens", flush=True)
while True:
    deaf.recv(2048)
"""
FLOOD = "fio --name=flood --ioengine=net --protocol=udp --hostname=10.77.0.1 --port=9999 --rw=write --bs=1000 " \
    "--size=1g --time_based --runtime=600 >/tmp/flood.log 2>&1 & echo $! >/tmp/flood.pid"


def status(card):
    """What the layer says of the last second."""
    return json.loads(card.devtap("do", "--json", "card", "symmetry", "status"))


@limit(120)
def test_flood_beside_transfer(t):
    """The flood is limited, by the counters, and all of the transfer arrives; also when workers die meanwhile."""
    space, card, guest = start(t, "symmetry | tap ifname=card0", root="testroot")
    ping(guest, 1)
    with subprocess.Popen([*space.enter, "python3", "-c", LISTENER], text=True,
                          stdout=subprocess.PIPE) as deaf:
        try:
            t.equal(deaf.stdout.readline(), "listens\n")
            transfer(t, space, guest, mib=2)
            before = card.counters("symmetry")
            t.equal(before["limited-flows"], 0, "flows limited by a transfer")
            assert "event=limited" not in card.output(), card.output()
            guest.check(FLOOD)
            wait_for("the flood to be limited", lambda: card.counters("symmetry")["limited-flows"] > 0)
            wait_for("the event", lambda: re.search(r"event=limited .*10\.77\.0\.1", card.output()))
            transfer(t, space, guest, mib=4)
            after = card.counters("symmetry")
            t.log(f"before {before}, after {after}, {status(card)}")
            assert after["delayed"] > before["delayed"], after
            t.equal(guest.run("kill -0 $(cat /tmp/flood.pid)")[0], 0, "the flood's end")
            card.kill_worker()
            card.kill_worker()
            guest.check("kill $(cat /tmp/flood.pid)")
            ping(guest, 1)
        finally:
            deaf.kill()
