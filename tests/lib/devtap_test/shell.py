"""Serial ports of a guest, and a shell that is driven through one.

Theory of operation: a command is sent as a quoted word; a long one, or one of several lines, ahead of that
as base64 in short lines (a terminal cuts lines at 4096 bytes and loses what overruns its buffer), each of
which the guest acknowledges. The answer stands between two marker lines with a number that
never repeats, so neither prompts nor kernel messages nor a late answer to an
earlier command are mistaken for it. The marker is sent in two halves:
if the terminal echoes, the echo does not match.
"""

import base64
import codecs
import itertools
import re
import shlex
import threading
import time

from .process import PATIENCE, unix_connect


class CommandFailed(AssertionError):
    """A command in the guest ended with a status other than 0."""


class SerialPort:
    """Collects what a guest's serial port prints, and writes to it."""

    def __init__(self, path, timeout=PATIENCE):
        self.sock = unix_connect(path, timeout)
        self.text = ""
        self.closed = False
        self.changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            with self.changed:
                self.text += decoder.decode(data).replace("\r", "")
                self.closed = not data
                self.changed.notify_all()
            if not data:
                return

    def send(self, text):
        """Writes text to the port."""
        self.sock.sendall(text.encode())

    def expect(self, pattern, timeout, start=0):
        """Waits until the regular expression matches what came after `start`."""
        compiled = re.compile(pattern, re.DOTALL)
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                match = compiled.search(self.text, start)
                if match:
                    return match
                if self.closed:
                    raise ConnectionError(f"the guest ended while {pattern!r} was awaited: "
                                          f"...{self.text[-300:]!r}")
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"waited {timeout:g} s in vain for {pattern!r}: "
                                       f"...{self.text[-300:]!r}")
                self.changed.wait(left)

    def close(self):
        """Closes the port; the guest sees a hang-up."""
        self.sock.close()


class Shell:
    """Runs commands in the shell at the other end of a serial port."""

    CHUNK = 700

    def __init__(self, port):
        self.port = port
        self.numbers = itertools.count(1)

    def sync(self, timeout=PATIENCE):
        """Waits until the shell answers; asks again, for a shell that flushes what it finds."""
        end, patience = time.monotonic() + timeout, 2.0
        while True:
            try:
                self._acknowledged("stty -echo 2>/dev/null;", patience)
                return
            except TimeoutError:
                if time.monotonic() >= end:
                    raise
                patience *= 2  # it may just be slow

    def _acknowledged(self, line, timeout=PATIENCE):
        mark = f"dt-ack-{next(self.numbers)}-"
        start = len(self.port.text)
        self.port.send(f"{line} echo dt-'{mark[3:]}'\n")
        self.port.expect(re.escape(mark), timeout, start)

    def _word(self, command):
        """A word that the shell expands to the command. To decode it takes an emulated guest as long as a small command."""
        if len(command) < self.CHUNK and command.isascii() and command.isprintable():
            return shlex.quote(command)
        code = base64.b64encode(command.encode()).decode()
        self._acknowledged("c=;")
        for at in range(0, len(code), self.CHUNK):
            self._acknowledged(f"c=${{c}}{code[at:at + self.CHUNK]};")
        return '"$(echo $c | base64 -d)"'

    def run(self, command, timeout=2 * PATIENCE):
        """Runs a command; returns (exit status, standard output and error)."""
        word = self._word(command)
        number = next(self.numbers)
        start = len(self.port.text)
        self.port.send(f"echo dt-'begin-{number}-'; (eval {word}) </dev/null 2>&1; "
                       f"echo dt-'end-{number}-'$?-\n")
        match = self.port.expect(rf"dt-begin-{number}-\n(.*)dt-end-{number}-(\d+)-",
                                 timeout, start)
        return int(match.group(2)), match.group(1)

    def check(self, command, timeout=2 * PATIENCE):
        """Runs a command that must succeed; returns its output without the last newline."""
        status, output = self.run(command, timeout)
        if status:
            raise CommandFailed(f"status {status} of {command!r} in the guest: {output.strip()[-800:]}")
        return output.rstrip("\n")
