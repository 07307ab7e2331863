"""Real guests, back ends and small helpers for devtap's system tests.

Only Python's standard library is used, so that the tests run wherever QEMU does.
"""

from .guest import Disk, Guest, GuestError
from .process import Process, free_socket_path, wait_for
from .qsd import StorageDaemon
from .shell import CommandFailed

__all__ = ["CommandFailed", "Disk", "Guest", "GuestError", "Process", "StorageDaemon",
           "free_socket_path", "wait_for"]
