"""Where a card's addresses are: told at the start and on demand, as tcpdump understands it."""

import shutil
import subprocess

from devtap_test import wait_for
from devtap_test.card import ping, start
from devtap_test.case import Skip, limit

CHAIN = "announce mac=52:54:00:00:00:01 ip4=10.77.0.2 ip6=2001:db8::2 interval=20ms | capture out={} | tap ifname=card0"


def said(path):
    """How often (reverse ARP, gratuitous ARP, unsolicited advertisement) went to the wire, as tcpdump reads it."""
    text = subprocess.run(["tcpdump", "-nevr", path], check=True, timeout=120, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout
    return (text.count("Reverse Request who-is 52:54:00:00:00:01"), text.count("who-has 10.77.0.2 tell 10.77.0.2"),
            text.count("tgt is 2001:db8::2"))


@limit(120)
def test_announce(t):
    """Three times each at the start, and on the command; the guest works as without."""
    if not shutil.which("tcpdump"):
        raise Skip("no tcpdump (scripts/deps test)")
    path = t.folder / "card.pcapng"
    _space, card, guest = start(t, CHAIN.format(path))
    wait_for("the start's", lambda: said(path) == (3, 3, 3))
    ping(guest, 1)
    card.devtap("do", "card", "announce", "announce")
    wait_for("the command's", lambda: said(path) == (6, 6, 6))
