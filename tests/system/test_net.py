"""Network cards: real guests on `devtap run --net`, with the host's own stack at the other end."""

import json
import os
import re
import shutil
import subprocess

from devtap_test import paths, wait_for
from devtap_test.card import INIT, SERVER, Card, Namespace, Server, arguments, ping, require, start, transfer
from devtap_test.case import Skip, limit
from devtap_test.idle import Driver
from devtap_test.load import noise


@limit(150)
def test_split(t):
    """A guest on a TAP interface: ping, and TCP both ways with offloads; the chain sees every packet."""
    space, card, guest = start(t)
    ping(guest)
    transfer(t, space, guest)
    front = card.show()["front"]
    assert front["attached"], front
    t.equal(front["dropped"], {"no_buffer": 0, "too_big": 0, "bad_header": 0, "bad_length": 0})
    features = int(front["features"], 16)
    t.equal([bit for bit in (0, 1, 7, 8, 10, 11, 12, 14) if not features >> bit & 1], [], "offloads that are missing")
    sent = card.ops("tap", "transmit")
    t.equal(sent["errors"], 0, "dropped")
    assert sent["bytes"] > 8 << 20, sent
    assert sent["bytes"] / sent["requests"] > 1514, f"no super-frame came: {sent}"


@limit(150)
def test_packed(t):
    """The same on packed rings, and without a single offload of the guest's."""
    space, _card, guest = start(t, packed=True)
    ping(guest)
    guest.check("ip link set eth0 mtu 1000")
    transfer(t, space, guest, mib=4)


@limit(150)
def test_two_threads(t):
    """Two queues, each with both of its rings on a thread of its own: both carry packets both ways."""
    space, card, guest = start(t, queues=2, options=("--threads", "2", "--threads-per-disk", "2"))
    t.equal(guest.check("ls -d /sys/class/net/eth0/queues/rx-*").split(),
            [f"/sys/class/net/eth0/queues/rx-{n}" for n in range(2)])
    for _ in range(10):
        if min(ring["pushed"] for ring in card.show()["front"]["queues"]) > 20:
            break
        for cpu in range(2):
            guest.check(f"taskset -c {cpu} ping -c 25 -i 0.01 -W 30 10.77.0.1", timeout=120)
    else:
        raise AssertionError(f"a ring is idle: {card.show()['front']['queues']}")
    transfer(t, space, guest, mib=4)
    t.equal(card.show()["front"]["dropped"]["no_buffer"], 0, "dropped")


@limit(150)
def test_worker_killed(t):
    """The worker dies under traffic: the connection goes on, and the guest's driver notices nothing."""
    space, card, guest = start(t)
    ping(guest, 1)
    for _ in range(3):
        card.kill_worker()
        ping(guest, 1)
    transfer(t, space, guest, mib=4)
    t.equal(guest.run("dmesg | grep -i 'NETDEV WATCHDOG\\|virtio.*error'")[0], 1, "complaints")


@limit(150)
def test_packet(t):
    """A guest on a raw interface: ping, TCP both ways with offloads, and a worker that is killed."""
    space, card, guest = start(t, "packet ifname=card0", veth=True)
    ping(guest)
    transfer(t, space, guest)
    for way in ("transmit", "receive"):
        seen = card.ops("packet", way)
        t.equal(seen["errors"], 0, "dropped")
        assert seen["bytes"] / seen["requests"] > 1514, f"no super-frame came: {way}: {seen}"
    card.kill_worker()
    ping(guest)


def xdp_program(space):
    """The number of the XDP program on card0; None = there is none."""
    [link] = json.loads(space.run("ip", "-d", "-j", "link", "show", "card0"))
    return link.get("xdp", {}).get("prog", {}).get("id")


@limit(150)
def test_packet_xdp(t):
    """By AF_XDP: ping, and TCP both ways; a killed worker's program is gone, its successor has one, and the end leaves none."""
    require()
    space = t.use(Namespace(t.folder, veth=True))
    space.run("ethtool", "-K", "card0", "rxvlan", "off")
    space.run("ethtool", "-K", "host0", "tx", "off")  # or its own stack's frames have no checksums yet
    card = t.use(Card("packet ifname=card0 xdp=on", t.folder, space.enter))
    guest = t.guest(root="initramfs", extra=arguments(card))
    guest.check(INIT)
    ping(guest)
    transfer(t, space, guest, mib=4)
    seen = card.counters("packet")
    assert seen["xdp-sent"] > 20 and seen["xdp-received"] > 1000, seen  # what is sent is super-frames mostly
    before = xdp_program(space)
    card.kill_worker()
    ping(guest)
    assert xdp_program(space) not in (None, before), before
    assert card.counters("packet")["xdp-received"] > 0
    card.stop()
    t.equal(xdp_program(space), None, "program that is left")


@limit(90)
def test_promised(t):
    """A guest keeps what it was told of its card, whatever the chain becomes, and so do a worker's successors."""
    card = t.use(Card("null", t.folder))
    told = card.show()["card"]
    t.equal((told["mtu"], told["tso4"]), (1500, True))
    with Driver(card.socket) as driver:
        assert driver.features >> 6 & 1, f"GSO is not among 0x{driver.features:x}"
        for step in ("replace null null mtu=9000", "insert top rate tx-bits=100k"):
            card.devtap("change", card.card, step)
            t.equal(card.show()["card"], told, step)
            card.kill_worker()
            t.equal(card.show()["card"], told, f"{step}: of the successor")
            wait_for("its rings", lambda: [ring["state"] for ring in card.show()["front"]["queues"]] == ["running"] * 2)
    done = subprocess.run([paths.devtap(), "change", card.card, "replace null null mtu=1000"], env=card.environment,
                          check=False, timeout=30, text=True, stderr=subprocess.PIPE)
    assert done.returncode and "1000 bytes only, and the guest knows 1500" in done.stderr, done


@limit(60)
def test_large_packets(t):
    """A TAP interface of 9000 bytes is one for a confined worker, too: when the chain changes, and in a successor."""
    require()
    space = t.use(Namespace(t.folder))
    space.run("ip", "link", "set", "card0", "mtu", "9000")
    card = t.use(Card("tap ifname=card0", t.folder, space.enter))
    for step in ("insert top rate tx-bits=1G", "remove rate"):
        card.devtap("change", card.card, step)
        t.equal(card.show()["card"]["mtu"], 9000, step)
        card.kill_worker()
        t.equal(card.show()["card"]["mtu"], 9000, f"{step}: of the successor")


@limit(180)
def test_slow(t):
    """A guest that was offered segmentation, and then has a limit so slow that a super-frame would take too long, sends what it has."""
    space, card, guest = start(t)
    ping(guest, 1)
    card.devtap("change", card.card, "insert top rate tx-bits=200k")
    card.kill_worker()
    ping(guest, 1)
    before = card.ops("tap", "transmit")
    guest.check(f"{noise(1)} | head -c 400000 >/tmp/file")
    own = guest.check("sha256sum < /tmp/file").split()[0]
    with Server(space, SERVER) as server:
        guest.check("nc 10.77.0.1 5001 < /tmp/file", timeout=120)
        t.equal(server.line(), own, "what the host got")
    after = card.ops("tap", "transmit")
    sent = {key: after[key] - before[key] for key in ("bytes", "requests")}
    t.log(f"{sent}, {card.counters('rate')}")
    assert 400000 < sent["bytes"] <= 1514 * sent["requests"], "a super-frame came"
    t.equal(guest.run("dmesg | grep -i 'NETDEV WATCHDOG\\|virtio.*error'")[0], 1, "complaints")


@limit(60)
def test_bad_back(t):
    """What cannot be opened is said in a line, and nothing is left behind."""
    require()
    for chain, said in (("tap ifname=a-name-that-is-too-long", "1 to 15 characters"),
                        ("tap ifname=lo", "TAP interface 'lo'"), ("packet ifname=no0", "'no0': No such device"), ("file path=x", "no extension or back of"),
                        ("tap", "ifname")):
        done = subprocess.run(["unshare", "-n", paths.devtap(), "run", "--net", "card", "--socket",
                               t.folder / "card.sock", chain], check=False, timeout=120, text=True,
                              stderr=subprocess.PIPE)
        assert done.returncode and said in done.stderr, done.stderr
        assert not (t.folder / "card.sock").exists()


@limit(60)
def test_no_permission(t):
    """Who may make no interfaces and open no raw sockets is told so in a line, with what to do."""
    require()
    space = t.use(Namespace(t.folder))
    drop = ["setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]
    for chain, said in (("tap ifname=new0", "ip tuntap add"), ("packet ifname=card0", "CAP_NET_RAW")):
        done = subprocess.run([*space.enter, *drop, paths.devtap(), "run", "--net", "card", "--socket",
                               t.folder / "card.sock", chain], check=False, timeout=120, text=True, stderr=subprocess.PIPE,
                              env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder)))
        assert done.returncode and said in done.stderr, done.stderr
        t.equal(done.stderr.count("\n"), 1, done.stderr)
        assert not (t.folder / "card.sock").exists()


@limit(150)
def test_interface_vanishes(t):
    """Of four cards of one process three lose their interfaces: one line each, and the fourth one's guest notices nothing. The
    others have no guest, or one that takes nothing, so what comes for it waits."""
    require()
    space = t.use(Namespace(t.folder))
    space.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    space.run("sh", "-c", "ip link set veth0 up; ip link set veth1 up")
    chains = {"b": "tap ifname=card1", "d": "route address=10.9.0.5 ifname=card2", "c": "packet ifname=veth0"}
    more = [word for name, chain in chains.items()
            for word in ("--net", name, "--socket", f"{t.folder}/{name}.sock", chain)]
    # The last chain is that of the last card named: here the first of them.
    card = t.use(Card(more[-1], t.folder, space.enter, ["tap ifname=card0", *more[:-1]]))
    for name in "bc":
        t.use(Driver(f"{t.folder}/{name}.sock"))
    guest = t.guest(root="initramfs", extra=arguments(card))
    guest.check(INIT)
    ping(guest)
    said = {"card1": "event=interface-gone device=b", "card2": "event=interface-gone device=d",
            "veth0": "event=interface-down device=c"}
    space.run("sh", "-ec", "ip link set card1 up; ip addr add 10.78.0.1/24 dev card1; ip addr add 10.79.0.1/24 dev veth1; "
              "ip neigh add 10.78.0.2 lladdr 52:54:00:00:00:09 dev card1; ip neigh add 10.79.0.2 lladdr 52:54:00:00:00:09 dev veth1")
    space.run("python3", "-c", "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
              "for to in '10.78.0.2', '10.79.0.2', '10.9.0.5': s.sendto(b'waits', (to, 9))")
    for interface in said:
        space.run("ip", "link", "del", interface)
    ping(guest)
    for event in said.values():
        wait_for("the event", lambda line=event: line in card.output())
    ping(guest)
    before = card.output().count("event=interface-gone")
    card.kill_worker()  # whose successor has to do without
    wait_for("the event", lambda: card.output().count("event=interface-gone") > before)
    transfer(t, space, guest, mib=2)
    t.equal([card.output().count(event) for event in said.values()], [1, 1, 1], "lines about it")
    assert "sandbox" not in card.output(), card.output()


def testpmd(t, card, packed):
    """DPDK's driver floods the card for some seconds; returns how many packets it says it sent."""
    binary = shutil.which("dpdk-testpmd")
    if not binary:
        raise Skip("no dpdk-testpmd (scripts/deps test)")
    device = f"net_virtio_user0,path={card.socket},queue_size=256" + (",packed_vq=1" if packed else "")
    with subprocess.Popen([binary, "--lcores=0@0,1@0", "--main-lcore=0", "--no-huge", "-m", "256", "--no-pci",
                           f"--file-prefix=dt{os.getpid()}", "--vdev", device, "--", "-i",
                           "--nb-cores=1", "--txd=256", "--rxd=256", "--forward-mode=flowgen",
                           "--txpkts=64", "--total-num-mbufs=4096"], text=True, bufsize=1,
                          stdin=subprocess.PIPE, stdout=open(t.folder / "testpmd.log", "w+", encoding="utf-8"),
                          stderr=subprocess.STDOUT) as pmd:
        try:
            pmd.stdin.write("start\n")
            wait_for("packets", lambda: card.ops("null", "transmit")["requests"] > 10000)
            pmd.stdin.write("stop\nquit\n")
            pmd.wait(120)
        finally:
            pmd.kill()
    log = (t.folder / "testpmd.log").read_text()
    return int(re.findall(r"TX-packets: (\d+)", log)[-1])


@limit(90)
def test_dpdk(t):
    """Somebody else's driver, split and packed: every packet that it sent is one that we saw."""
    card = t.use(Card("null", t.folder))
    seen = 0
    for packed in (False, True):
        sent = testpmd(t, card, packed)
        total = card.ops("null", "transmit")["requests"]
        t.equal(total - seen, sent, "packed" if packed else "split")
        seen = total
        wait_for("the end of the session", lambda: not card.show()["front"]["attached"])
    t.equal(card.show()["front"]["broken"], 0, "broken sessions")
