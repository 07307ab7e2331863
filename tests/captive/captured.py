#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""captured.py - plays an extension in a language of its own that a guest has captured.

Its command `attack` tries to reach what is none of its business; it tells for each try
"refused" and why, or "REACHED".
"""
import ctypes
import os
import signal
import socket

import devtap

LIBC = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """A system call's wrapper of the C library; raises as Python's own do."""
    if getattr(LIBC, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def connect(family, address):
    """A connection to somebody."""
    with socket.socket(family) as sock:
        sock.connect(address)


def fork_bomb():
    """More processes than one extension may have."""
    children = []
    try:
        for _ in range(200):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


class Captured(devtap.Extension):
    """Tries to break out"""
    name = "captured"
    commands = {"attack": ("PORT SOCKET FILE PID...", "Try to break out, and tell how it went.")}

    def do_attack(self, port, path, file, *pids):
        """Each try, and what came of it."""
        tries = {
            "internet": lambda: connect(socket.AF_INET, ("127.0.0.1", int(port))),
            "local-sockets": lambda: connect(socket.AF_UNIX, path),
            "write-a-file": lambda: open(file, "r+b"),
            "make-a-file": lambda: open("/etc/captured", "w", encoding="utf-8"),
            "become-root": lambda: os.setuid(0),
            "namespaces": lambda: call("unshare", 0x10000000),
            "mount": lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
            "fork-bomb": fork_bomb,
        }
        for pid in map(int, pids):
            tries[f"signal-{pid}"] = lambda p=pid: os.kill(p, signal.SIGKILL)
            tries[f"trace-{pid}"] = lambda p=pid: call("ptrace", 16, p, None, None)
            tries[f"memory-of-{pid}"] = lambda p=pid: open(f"/proc/{p}/mem", "r+b")
        outcome = {"user": os.getuid()}
        for what, attempt in tries.items():
            try:
                attempt()
                outcome[what] = "REACHED"
            except OSError as error:
                outcome[what] = f"refused: {error.strerror}"
        return outcome


devtap.run(Captured)
