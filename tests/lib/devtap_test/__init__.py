"""Real guests, back ends and small helpers for devtap's system tests.

Only Python's standard library is used, so that the tests run wherever QEMU does.
"""

from . import paths
from .guest import Disk, Guest
from .process import Process, free_socket_path, wait_for
from .qsd import StorageDaemon
from .shell import CommandFailed
from .softdisk import SoftDisk

__all__ = ["CommandFailed", "Disk", "Guest", "Process", "SoftDisk", "StorageDaemon",
           "free_socket_path", "paths", "wait_for"]
