"""Live migration of a guest from one QEMU process to another.

Theory of operation: what a back end writes into guest memory, QEMU learns from the dirty log
alone. A page that is sent and then written by the back end without a mark is old at
the destination. So the memory goes over in several rounds while the guest works, at least
until a second one has begun: only pages that are dirtied after the first can be missed.
"""

import time

from .process import PATIENCE, wait_for
from .shell import Shell

MIB = 1 << 20

# For guests that are to migrate. Until version 9, QEMU loses what an emulated processor writes
# ("physmem: Fix migration dirty bitmap coherency with TCG memory access") unless the memory
# is no multiple of 64 pages; the guest then dies whatever its disks are.
MEMORY = f"{384 * 1024 + 8}K"


def migrate(source, destination, rounds=3, timeout=4 * PATIENCE, midway=None,
            bandwidth=200 * MIB):
    """Moves the running guest of `source` to `destination` (incoming=True); returns QEMU's figures.

    midway: called once when all of memory has gone over and the guest still runs at the source;
        with little bandwidth and a guest that writes to memory it has time.
    The destination has the shell afterwards; the source is stopped, and yet to be closed.
    """
    path = str(destination.folder / f"{destination.name}-migration")
    destination.qmp.command("migrate-incoming", uri=f"unix:{path}")
    # A downtime that cannot be kept holds the migration up until enough rounds are over.
    source.qmp.command("migrate-set-parameters", max_bandwidth=bandwidth, downtime_limit=1)
    source.qmp.command("migrate", uri=f"unix:{path}")
    end = time.monotonic() + timeout

    def look():
        figures = source.qmp.command("query-migrate")
        assert figures["status"] not in ("failed", "cancelled"), figures
        assert time.monotonic() < end, f"no end of the migration: {figures}"
        return figures

    def reached(round_number):
        figures = look()
        return (figures["status"] == "completed" or
                figures.get("ram", {}).get("dirty-sync-count", 0) >= round_number)

    if midway:
        wait_for("the first round", lambda: reached(2), timeout, 0.1)
        midway()
    wait_for(f"{rounds} rounds", lambda: reached(rounds), timeout, 0.1)
    source.qmp.command("migrate-set-parameters", downtime_limit=2000)
    wait_for("the end of the migration", lambda: look()["status"] == "completed", timeout, 0.05)
    wait_for("the destination to run",
             lambda: destination.qmp.command("query-status")["status"] == "running")
    destination.shell = Shell(destination.control)
    destination.shell.sync()
    return source.qmp.command("query-migrate")
