"""Chains that are changed while a load verifies: what tests of `devtap change` and of modes share."""

import json
import os
import re
import signal
import subprocess
import time

from .process import wait_for

# Content-neutral, and opened by a confined worker itself.
LAYERS = ("throttle iops=2M", "delay probability=1% time=1ms", "delay probability=0% time=1s",
          "throttle bps=8G", "error probability=0%")


class Load:
    """devtap bench --verify in the background, without the back end's in-flight log."""

    def __init__(self, t, disk, seconds, *options):
        self.out = open(t.folder / f"bench{time.monotonic()}.json", "w+", encoding="utf-8")
        self.child = subprocess.Popen(
            [disk.binary(), "bench", "--socket", disk.socket, "--verify", "--json", "--no-inflight",
             "--time", str(seconds), *options], stdout=self.out, stderr=subprocess.STDOUT)

    def running(self):
        """Is it?"""
        return self.child.poll() is None

    def judge(self, t):
        """Waits for the end: no error, no mismatch, nothing lost or returned twice."""
        self.child.wait()
        self.out.seek(0)
        text = self.out.read()
        t.equal(self.child.returncode, 0, text)
        result = json.loads(text)
        for key in ("errors", "mismatches", "twice", "lost"):
            t.equal(result[key], 0, key)
        assert result["requests"] > 100, text
        return result


def show(disk):
    """What devtap show says, once there is a worker to say it."""
    def ask():
        try:
            return json.loads(disk.devtap("show", "--json", disk.disk))
        except RuntimeError:
            return None
    return wait_for("a worker", ask)


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
    for _ in range(100):
        try:
            return json.loads(disk.devtap(words[0], "--json", disk.disk, *words[1:]))
        except RuntimeError as error:
            if not re.search("being restarted|the worker: |under way", str(error)):
                raise
            time.sleep(0.05)
    raise AssertionError(f"{words}: the worker does not come back")


def report(t, name, values):
    """Prints percentiles in ms; returns the 99th."""
    values = sorted(v / 1e6 for v in values)
    at = [values[min(len(values) - 1, int(len(values) * p))] for p in (.5, .99)]
    t.log(f"{name}: p50 {at[0]:.2f} ms, p99 {at[1]:.2f} ms, max {values[-1]:.2f} ms")
    return at[1]
