"""A client of QEMU's machine protocol."""

import json

from .process import PATIENCE, unix_connect


class QmpError(Exception):
    """QEMU refused a command."""


class Qmp:
    """One connection to a QMP socket."""

    def __init__(self, path, timeout=PATIENCE):
        self.sock = unix_connect(path, timeout)
        self.sock.settimeout(timeout)
        self.stream = self.sock.makefile("rw", encoding="utf-8", newline="\n")
        self.events = []
        json.loads(self.stream.readline())
        self.command("qmp_capabilities")

    def command(self, name, /, **arguments):
        """Runs a command and returns its value; events seen meanwhile go to .events.

        Underscores in argument names become hyphens, as QMP spells most of them.
        """
        message = {"execute": name}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()
        while True:
            line = self.stream.readline()
            if not line:
                raise QmpError(f"{name}: QEMU closed the connection")
            answer = json.loads(line)
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(f"{name}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def close(self):
        """Closes the connection."""
        self.stream.close()
        self.sock.close()
