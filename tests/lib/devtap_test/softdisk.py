"""A soft disk served by `devtap run`, and the commands on it.

All knowledge of devtap's command line that the tests need is in this file.
"""

import json
import os
import subprocess

from . import paths
from .process import Process, free_socket_path


class SoftDisk(Process):
    """`devtap run --disk NAME --socket PATH CHAIN`, ready when it says so.

    After .kill(), .restart() serves the same disk by the same command line.
    """

    READY = r"devtap: ready"

    def __init__(self, chain, folder, disk="vm1", options=()):
        self.disk = disk
        self.socket = free_socket_path(folder, f"{disk}.sock")
        self.environment = dict(os.environ, DEVTAP_RUNTIME_DIR=str(folder))
        self.arguments = [self.binary(), "run", "--disk", disk, "--socket", self.socket,
                          *[str(option) for option in options], chain]
        super().__init__(self.arguments, folder, name=f"devtap-{disk}", ready_line=self.READY,
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

    def devtap(self, *arguments, timeout=30):
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
            self.devtap("set", self.disk, layer, f"{name}={value}")

    def stats(self):
        """The counters since the start, by layer name."""
        stats = json.loads(self.devtap("stats", "--json", self.disk))
        return {layer["name"]: layer for layer in stats["layers"]}

    def operations(self, layer, operation):
        """How many requests of an operation ("read", "flush", ...) a layer has seen."""
        return self.stats()[layer]["ops"].get(operation, {}).get("requests", 0)

    def resize(self, size):
        """Changes the disk's size while it runs."""
        self.devtap("resize", self.disk, str(size))
