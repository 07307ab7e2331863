"""A program judges the packets of a real guest: the packet symmetry of examples/symmetry.py, and its death; beside an
extension in a process of its own, which dies, too."""

import contextlib
import os
import pathlib
import signal
import sys

from devtap_test import paths, wait_for
from devtap_test.card import ping, start, transfer
from devtap_test.case import limit
from devtap_test.process import Process

FLOOD = "fio --name=flood --ioengine=net --protocol=udp --hostname=10.77.0.1 --port=9999 --rw=write --bs=1000 " \
    "--size=1g --time_based --runtime=600 >/tmp/flood.log 2>&1 & echo $! >/tmp/flood.pid"
# The port takes what comes and answers nothing.
DEAF = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.77.0.1', 9999)); " \
    "print('listens', flush=True); time.sleep(1000)"


def judge(t, socket):
    """The example as a process, which is a program of its own like any other."""
    build = pathlib.Path(paths.devtap()).resolve().parents[1]
    environment = dict(os.environ, PYTHONPATH=str(paths.SOURCE / "python"),
                       DEVTAP_CHANNEL_LIBRARY=str(build / "channel/libdevtap-channel.so"))
    return t.use(Process([sys.executable, paths.SOURCE / "examples/symmetry.py", socket], t.folder, name="symmetry",
                         env=environment))


def hosts_below(pid):
    """The processes of extensions that descend from a process."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of one that ends meanwhile
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if pathlib.Path(f"/proc/{child}/comm").read_text(encoding="ascii").strip() == "ext-host":
                        yield int(child)
                yield from hosts_below(child)


def programs(card, n):
    """Wait until so many programs have connected since the worker began."""
    wait_for("the program", lambda: card.counters("queue")["programs"] >= n)


@limit(120)
def test_symmetry_in_python(t):
    """A flood is limited and a transfer beside it is not; the placed extension, the program and the worker die."""
    socket = t.folder / "queue"
    space, card, guest = start(t, f"limits pps=1M place=process mem-limit=1G | queue socket={socket} super=on | tap ifname=card0",
                               root="testroot")
    program = judge(t, socket)
    programs(card, 1)
    ping(guest, 1)
    transfer(t, space, guest, mib=1)
    t.equal(card.counters("queue")["denied"], 0, "packets dropped by the program")
    deaf = t.use(Process([*space.enter, sys.executable, "-c", DEAF], t.folder, name="deaf", ready_line="listens"))
    guest.check(FLOOD)
    wait_for("the flood to be limited", lambda: "event=limited" in card.output())
    transfer(t, space, guest, mib=1)
    guest.check("kill $(cat /tmp/flood.pid)")
    deaf.kill()

    host, = hosts_below(card.pid)
    os.kill(host, signal.SIGKILL)
    wait_for("the extension's next process", lambda: "event=extension-restarted" in card.output())
    ping(guest)

    program.kill()  # with whatever waits: it waits on
    wait_for("its end to be seen", lambda: "event=program-lost" in card.output())
    t.equal(guest.run("ping -c 1 -W 1 10.77.0.1 >/dev/null")[0], 1, "a ping without a judge")
    judge(t, socket)
    programs(card, 2)
    ping(guest)

    card.kill_worker()  # the program finds the next one by itself; what is sent meanwhile may be lost
    programs(card, 1)
    wait_for("packets again", lambda: guest.run("ping -c 1 -W 2 10.77.0.1 >/dev/null")[0] == 0)
    ping(guest)
    t.log(card.counters("queue"))
