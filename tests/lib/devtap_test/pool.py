"""Pools: the program `cvd`, and the process that serves one."""

import json
import os
import socket
import subprocess

from . import paths
from .process import PATIENCE, Process, wait_for


def cvd(*words, status=0, timeout=2 * PATIENCE, parts=False):
    """Runs a command of cvd; returns what it printed, or what it complained of.

    status: None: any. parts: what it printed, though it failed.
    """
    done = subprocess.run([binary(), *map(str, words)], capture_output=True, text=True,
                          timeout=timeout, check=False)
    assert status in (None, done.returncode), f"cvd {words}: {done.returncode}: {done.stderr}"
    return done.stdout if status == 0 or parts else done.stderr


def binary():
    """The program under test, beside devtap."""
    return os.path.join(os.path.dirname(paths.devtap()), "cvd")


def check(pool):
    """Reads the whole pool, served or not; fails on any finding."""
    found = json.loads(cvd("pool", "check", pool, "--data", "--json"))
    assert found["findings"] == [], f"{found}"
    return found


def ask(pool, *words):
    """What the process that serves a pool answers to a command of cvd, which takes it less than a program's start
    (devtap-pool-control(7))."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{pool}.sock")
        request = {"verb": "run", "pool": str(pool), "words": [str(word) for word in words]}
        sock.sendall(json.dumps(request).encode() + b"\n")
        with sock.makefile() as lines:
            answer = json.loads(lines.readline())
    assert answer["ok"], answer
    return answer["result"]["output"]


class PoolProcess(Process):
    """`cvd pool open`, serving."""

    def __init__(self, pool, folder, *options):
        self.pool = pool
        super().__init__([binary(), "pool", "open", pool, *options], folder,
                         name=f"pool-{os.path.basename(pool)}", ready_line="cvd: serving")

    def worker(self):
        """The process id of the worker; one that was killed may still be on its way out."""
        def ask():
            try:
                with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
                    alive = [int(pid) for pid in file.read().split() if self._lives(pid)]
            except FileNotFoundError:
                return None
            return alive[0] if alive else None
        return wait_for("the pool's worker", ask)

    @staticmethod
    def _lives(pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                return file.read().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False
