"""`pair`: two guests on a cable; and testpmd, which sends packets round and round through both ends."""

import shutil
import subprocess
import types

from devtap_test import paths, wait_for
from devtap_test.card import MAC, Card, arguments, init, listens, send
from devtap_test.case import Skip, limit
from devtap_test.process import free_socket_path

OTHER = "52:54:00:00:00:02"
PAIR = "pair name=cable"


def cable(t, options=(), chain=PAIR):
    """Two cards of one run, `card` and `other`: the process, and where the other one's socket is."""
    other = free_socket_path(t.folder, "other.sock")
    return t.use(Card(PAIR, t.folder, options=[*options, chain, "--net", "other", "--socket", other])), other


@limit(180)
def test_guests(t):
    """TCP between two guests in super-frames. A layer comes into one card's chain, and no packet is lost; the worker
    dies, and the connection does not. The two cards would have threads of their own."""
    card, other = cable(t, ("--threads", "2"))
    guests = [t.guest(root="initramfs", wait=False, extra=arguments(types.SimpleNamespace(socket=path), mac=mac))
              for path, mac in ((card.socket, MAC), (other, OTHER))]
    for number, guest in enumerate(guests, 2):
        guest.wait_for_shell()
        guest.check(init(number))
    a, b = guests
    a.check("ping -c 1 -W 5 10.77.0.3 || ping -c 1 -W 30 10.77.0.3")
    before = card.ops("pair", "transmit")
    send(t, a, b, "10.77.0.3", 8)
    after = card.ops("pair", "transmit")
    mean = (after["bytes"] - before["bytes"]) / (after["requests"] - before["requests"])
    assert mean > 3000, f"{mean:.0f} bytes a packet: no super-frames"

    a.check("(ping -c 60 -i 0.05 -W 30 10.77.0.3 > /tmp/pings; touch /tmp/pinged) > /dev/null 2>&1 &")
    for step in ("insert top rate rx-packets=1G", "remove rate", "replace pair pair name=cable mtu=1500"):
        card.devtap("change", "other", step)
    a.check("while ! [ -e /tmp/pinged ]; do sleep 0.1; done")
    assert " 0% packet loss" in a.check("cat /tmp/pings"), a.check("cat /tmp/pings")

    b.check("rm -f /tmp/got; mkfifo /tmp/open; nc -l -p 5002 <> /tmp/open > /tmp/got 2> /dev/null &")
    listens(b, 5002)
    a.check("((cat /tmp/file; sleep 2; cat /tmp/file) | nc 10.77.0.3 5002) > /dev/null 2>&1 &")
    wait_for("bytes", lambda: int(b.check("wc -c < /tmp/got")) > 0)
    card.kill_worker()
    wait_for("the rest", lambda: int(b.check("wc -c < /tmp/got")) >= 16 << 20)
    own = a.check("sha256sum < /tmp/file")
    for half in (0, 8):
        t.equal(b.check(f"dd if=/tmp/got bs=1M skip={half} count=8 2>/dev/null | sha256sum"), own, "what arrived")
    t.equal(b.check("wc -c < /tmp/got"), str(16 << 20))


def test_refusals(t):
    """A third end; an end at a card with several threads."""
    for words, why in (([PAIR, "--net", "b", "--socket", t.folder / "b", PAIR, "--net", "c", "--socket", t.folder / "c", PAIR],
                        "c: pair: the pair 'cable' has both its ends, the cards a and b"),
                       (["--threads", "2", "--threads-per-disk", "2", PAIR], "'pair' serves a device on one thread only")):
        done = subprocess.run([paths.devtap(), "run", "--control", "none", "--net", "a", "--socket", t.folder / "a", *words],
                              check=False, timeout=120, capture_output=True, text=True)
        assert done.returncode != 0 and why in done.stderr, done.stderr


@limit(120)
def test_circle(t):
    """testpmd is the guest of both cards, with split rings and with packed ones: what one port receives the other sends,
    so packets go round, also after a layer came and went."""
    program = shutil.which("dpdk-testpmd")
    if not program:
        raise Skip("no dpdk-testpmd (scripts/deps test)")
    for ring in ("packed_vq=0", "packed_vq=1"):
        card, other = cable(t)
        devices = [word for n, path in enumerate((card.socket, other))
                   for word in ("--vdev", f"net_virtio_user{n},path={path},queue_size=256,{ring}")]
        with subprocess.Popen([program, "--lcores=0@0,1@1", "--main-lcore=0", "--no-huge", "-m", "512", "--no-pci",
                               f"--file-prefix=pair{card.pid}", *devices, "--", "-i", "--nb-cores=1", "--total-num-mbufs=4096"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pmd:
            def sent():
                return card.ops("pair", "transmit")["requests"]
            pmd.stdin.write("set fwd io\nstart tx_first 4\n")
            pmd.stdin.flush()
            wait_for("packets", lambda: sent() > 50000)
            card.devtap("change", "card", "insert top rate tx-packets=1G")
            card.devtap("change", "card", "remove rate")
            before = sent()
            wait_for("more packets", lambda: sent() > before + 50000)
            pmd.stdin.write("stop\nquit\n")
            pmd.stdin.flush()
            said = pmd.stdout.read()
        assert "Bye..." in said, said[-500:]
        drops = [card.counters("pair"), card.show()["front"]["dropped"]]
        t.log(ring, sent(), "packets, dropped:", drops)
        t.equal(drops[0]["no-memory"] + drops[0]["at-rest"], 0)
        card.kill()
