"""What chains stand on: encrypted images, NBD servers, mirrors."""

import os
import subprocess

from .process import PATIENCE, Process, free_socket_path, wait_for

MIB = 1 << 20
MIRROR_METADATA = 128 << 10
KEY = b"two words\nand a line"


def luks(t, *options, size=80, key_bytes=KEY):
    """A file of `size` MiB that cryptsetup has formatted, and its key file."""
    image, key = t.sparse_file(size * MIB, "disk.luks"), t.folder / "key"
    key.write_bytes(key_bytes)
    subprocess.run(["cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2",
                    "--pbkdf-force-iterations", "1000", "--key-file", key, *options, image],
                   check=True)
    return image, key


class NbdServer(Process):
    """nbdkit serving a file on a Unix socket, again after .restart()."""

    def __init__(self, folder, image, name="nbdkit"):
        self.socket = free_socket_path(folder, f"{name}.nbd")
        self.arguments = ["nbdkit", "-f", "-U", self.socket, "file", str(image)]
        super().__init__(self.arguments, folder, name=name, ready_socket=self.socket)

    def restart(self):
        """Serves the same file again."""
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        super().__init__(self.arguments, self.folder, name=self.name, ready_socket=self.socket)

    def leg(self):
        """A chain of it, for a mirror that shall notice soon when it is gone."""
        return (f"nbd uri=nbd+unix:///?socket={self.socket} timeout=500ms fence-delay=100ms "
                "connect-timeout=3s")


def mirror_status(disk):
    """What the mirror says of itself; {} while nobody can be asked."""
    try:
        return disk.do_json("mirror", "status")
    except RuntimeError:
        return {}


def mirror_reaches(disk, state, timeout=3 * PATIENCE):
    """Waits until the mirror is "complete" or "degraded"."""
    wait_for(f"a mirror that is {state}", lambda: mirror_status(disk).get("state") == state, timeout, 0.1)
