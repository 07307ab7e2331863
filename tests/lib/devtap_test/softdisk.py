"""A soft disk served by `devtap run`, and the commands on it.

All knowledge of devtap's command line that the tests need is in this file.
"""

import json
import os
import re
import signal
import subprocess

from . import paths
from .process import PATIENCE, Process, free_socket_path, wait_for


class SoftDisk(Process):
    """`devtap run --disk NAME --socket PATH CHAIN`, ready when it says so.

    After .kill() or .stop(), .restart() serves the same disk by the same command line.
    more: {NAME: CHAIN} of further disks of the same process; .sockets has all by name.
    prefix: a command that runs it, with its arguments.
    """

    READY = r"devtap: ready"

    def __init__(self, chain, folder, disk="vm1", options=(), more=None, name=None,
                 prefix=()):
        self.disk = disk
        chains = {disk: chain, **(more or {})}
        self.sockets = {each: free_socket_path(folder, f"{each}.sock") for each in chains}
        self.socket = self.sockets[disk]
        self.environment = dict(os.environ, DEVTAP_RUNTIME_DIR=str(folder))
        self.arguments = [*prefix, self.binary(), "run"]
        for each, layers in chains.items():
            own = [str(option) for option in options] if each == disk else []
            self.arguments += ["--disk", each, "--socket", self.sockets[each], *own, layers]
        super().__init__(self.arguments, folder, name=name or f"devtap-{disk}", ready_line=self.READY,
                         env=self.environment)

    @staticmethod
    def binary():
        """The tool under test."""
        path = paths.devtap()
        if not path:
            raise RuntimeError("no devtap binary: build it, or set DEVTAP")
        return path

    def restart(self):
        """Runs the same command line again."""
        super().__init__(self.arguments, self.folder, name=self.name, ready_line=self.READY,
                         env=self.environment)

    @property
    def address(self):
        """How other verbs call this disk, whoever else serves one of the same name."""
        return f"{self.pid}/{self.disk}"

    def devtap(self, *arguments, timeout=2 * PATIENCE):
        """Runs another devtap command; returns its standard output."""
        done = subprocess.run([self.binary(), *arguments], env=self.environment, timeout=timeout,
                              text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"devtap {' '.join(arguments)}: status {done.returncode}: "
                               f"{(done.stderr or done.stdout).strip()}")
        return done.stdout

    def set(self, layer, **values):
        """Changes parameters of a layer while the disk runs."""
        for name, value in values.items():
            self.devtap("set", self.address, layer, f"{name}={value}")

    def show(self):
        """What `devtap show` tells of the disk."""
        return json.loads(self.devtap("show", "--json", self.address))

    def answer(self):
        """The same, or None while nobody can be asked: one worker takes over from another."""
        try:
            return self.show()
        except RuntimeError:
            return None

    def attached(self):
        """Is there a worker, with a VM attached?"""
        return bool((self.answer() or {}).get("front", {}).get("attached"))

    def worker(self):
        """The process id of the worker, once it serves."""
        return wait_for("a worker", lambda: (self.answer() or {}).get("worker"))

    def keeper(self):
        """The process id of the disk's keeper."""
        return self.show()["keeper"]

    def kill_worker(self):
        """SIGKILL to the worker, once it serves; returns its process id."""
        pid = self.worker()
        os.kill(pid, signal.SIGKILL)
        return pid

    def events(self, kind=None):
        """All events so far, or those of one kind."""
        lines = self.devtap("events", "--json", self.address).splitlines()
        return [e for e in map(json.loads, lines) if kind in (None, e["event"])]

    def stats(self):
        """The counters since the start, by layer name."""
        stats = json.loads(self.devtap("stats", "--json", self.address))
        return {layer["name"]: layer for layer in stats["layers"]}

    def operations(self, layer, operation):
        """How many requests of an operation ("read", "flush", ...) a layer has seen."""
        return self.stats()[layer]["ops"].get(operation, {}).get("requests", 0)

    def resize(self, size):
        """Changes the disk's size while it runs."""
        self.devtap("resize", self.address, str(size))

    def do(self, layer, *words):
        """Gives a layer one of its own commands."""
        return self.devtap("do", self.address, layer, *words)

    def do_json(self, layer, *words):
        """The same; returns the values that it answers."""
        return json.loads(self.devtap("do", "--json", self.address, layer, *words))

    def refuses(self, why, *arguments):
        """Runs another devtap command, which must fail and say why (a regular expression)."""
        try:
            self.devtap(*arguments)
        except RuntimeError as error:
            assert re.search(why, str(error)), f"{arguments}: {error}"
        else:
            raise AssertionError(f"{arguments}: not refused")

    def bench(self, *options, check=True):
        """A load of `devtap bench` on the disk, to its end; returns the figures."""
        done = subprocess.run([self.binary(), "bench", "--socket", self.socket, "--json", *options],
                              stdout=subprocess.PIPE, text=True, timeout=2 * PATIENCE, check=check)
        return json.loads(done.stdout)


def tool(*arguments, status=0):
    """Runs devtap without a running disk; returns what it says."""
    done = subprocess.run([SoftDisk.binary(), *map(str, arguments)], text=True, timeout=2 * PATIENCE,
                          capture_output=True, check=False)
    assert done.returncode == status, f"{arguments}: status {done.returncode}: {done.stderr}"
    return done.stdout + done.stderr


def conforms(*chains, skipped=("state", "threads", "kill")):
    """What devtap promises of every layer. Each property has files of its own, named with {}.

    skipped: for layers with nothing to save, of one thread, that cannot have disks of two sizes.
    """
    # Requests that are held have to come back within half of that patience, whoever else wants the processor.
    listed = [line.split()[0] for line in tool("test", "--list").splitlines() if line.strip()]
    for number, name in enumerate(n for n in listed if n not in skipped):
        for chain in chains:
            tool("test", "--duration", "200ms", "--patience", "40s", "--property", name, chain.format(number))
