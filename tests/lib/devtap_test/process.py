"""Starting daemons, waiting until they are ready, and always ending them."""

import ctypes
import itertools
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

PR_SET_PDEATHSIG = 1
# Seconds that whatever only has to happen some time may take, on a machine however busy. Nobody waits that long for
# what is well; and no test may be about how fast things are, unless it has measured the machine itself.
PATIENCE = 120.0
_libc = ctypes.CDLL(None, use_errno=True)


def wait_for(what, condition, timeout=PATIENCE, interval=0.02):
    """Polls until condition() is true and returns its value; `what` names it in the error."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)


def read_bytes(pid):
    """What the kernel read from devices for a process."""
    text = pathlib.Path(f"/proc/{pid}/io").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if line.startswith("read_bytes")).split()[1])


def catches(pid, number):
    """Does a process handle this signal?"""
    text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    mask = int(next(line for line in text.splitlines() if line.startswith("SigCgt:")).split()[1], 16)
    return bool(mask >> (number - 1) & 1)


def free_socket_path(folder=None, name="vhost.sock"):
    """A path for a Unix socket that nothing uses, short enough for sun_path."""
    path = os.path.join(folder or tempfile.mkdtemp(prefix="dt-"), name)
    stem, suffix = os.path.splitext(path)
    for number in itertools.count(2):
        if not os.path.lexists(path):
            break
        path = f"{stem}-{number}{suffix}"
    if len(path.encode()) > 107:
        raise ValueError(f"socket path too long: {path}")
    return path


def _die_with_parent():
    """In the child: get SIGKILL when the test dies, so that nothing outlives it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child process with its output in log files; ends with the `with` block.

    ready_socket: wait until this Unix socket accepts, without connecting (a
    vhost-user back end may take the first connection for its only front end).
    ready_line: wait until this regular expression matches stderr or stdout.
    """

    def __init__(self, argv, folder, name=None, ready_socket=None, ready_line=None,
                 timeout=PATIENCE, env=None):
        self.argv = [str(arg) for arg in argv]
        self.name = name or os.path.basename(self.argv[0])
        self.folder = pathlib.Path(folder)
        self.log = self.folder / f"{self.name}.log"
        start = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=log, env=env, preexec_fn=_die_with_parent)
        try:
            if ready_socket:
                self._wait(lambda: is_listening(ready_socket), f"{ready_socket}", timeout)
            if ready_line:
                pattern = re.compile(ready_line)
                self._wait(lambda: pattern.search(self.output(start)),
                           f"the line {ready_line!r}", timeout)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self):
        """The process id."""
        return self.child.pid

    def output(self, start=0):
        """All that the process has printed so far (from byte `start`)."""
        return self.log.read_bytes()[start:].decode(errors="replace")

    def _wait(self, condition, what, timeout):
        def check():
            if self.child.poll() is not None:
                raise RuntimeError(f"{self.name} ended with status {self.child.returncode} "
                                   f"before {what}: {self.output()[-500:].strip()}")
            return condition()
        wait_for(f"{what} of {self.name}", check, timeout)

    def running(self):
        """Whether the process is alive."""
        return self.child.poll() is None

    def kill(self):
        """kill -9, and wait."""
        if self.running():
            self.child.kill()
        self.child.wait()

    def stop(self, timeout=PATIENCE):
        """SIGTERM, then SIGKILL; returns the exit status."""
        if self.running():
            self.child.terminate()
            try:
                self.child.wait(timeout)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()


def is_listening(path):
    """Whether a Unix socket of this path is bound and listens (without connecting)."""
    if not os.path.exists(path):
        return False
    # State 01 with flag 00010000 (__SO_ACCEPTCON) is a listener.
    with open("/proc/net/unix", encoding="ascii", errors="replace") as table:
        for line in table:
            fields = line.split()
            if len(fields) == 8 and fields[7] == path and fields[3] == "00010000":
                return True
    return False


def unix_connect(path, timeout=PATIENCE):
    """A connected Unix stream socket; waits until somebody listens."""
    end = time.monotonic() + timeout
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            return sock
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() >= end:
                raise
            time.sleep(0.02)
