"""Chains that are changed while a load verifies: what tests of `devtap change` and of modes share."""

import json
import re

from .load import percentiles
from .process import wait_for

# Content-neutral, and opened by a confined worker itself.
LAYERS = ("throttle iops=2M", "delay probability=1% time=1ms", "delay probability=0% time=1s",
          "throttle bps=8G", "error probability=0%")


def show(disk):
    """What devtap show says, once there is a worker to say it."""
    return wait_for("a worker", disk.answer)


def names(disk):
    """The layers, from the guest down."""
    return [layer["name"] for layer in show(disk)["chain"]]


def step(generator, chain, extensions):
    """One random operation on a chain of these names, the back last."""
    layers = chain[:-1]
    kind = generator.choice(("insert", "remove", "move", "move") if layers else ("insert",))
    if kind == "insert" and len(layers) > 5:
        kind = "remove"
    if kind == "insert":
        # A delay keeps a part of each request's frame, which is used up by three of them over a file.
        full = sum(name.startswith("delay") for name in layers) >= 2
        fitting = [e for e in extensions if not (full and e.startswith("delay"))]
        return ("insert", str(generator.randint(1, len(layers) + 1)), generator.choice(fitting))
    if kind == "remove":
        return ("remove", generator.choice(layers))
    return ("move", generator.choice(layers), str(generator.randint(1, len(layers))))


def change(disk, *words):
    """Runs an operation, again where a killed worker was in its way; returns its outcome."""
    def done():
        try:
            return json.loads(disk.devtap(words[0], "--json", "--patience", "8s", disk.disk, *words[1:]))
        except RuntimeError as error:
            if not re.search("being restarted|the worker: |under way", str(error)):
                raise
            return None
    return wait_for(f"a worker for {words}", done, interval=0.05)


def report(t, name, nanoseconds):
    """Prints their percentiles."""
    percentiles(t, name, [value / 1e6 for value in nanoseconds])
