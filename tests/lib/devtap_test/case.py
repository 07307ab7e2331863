"""What a system test gets as its argument `t`."""

import contextlib
import itertools
import pathlib
import re
import subprocess
import time

from . import paths
from .guest import Guest
from .softdisk import SoftDisk


class Skip(Exception):
    """The test cannot run here; the reason is printed."""


# On a busy machine a test takes so many times as long, and is well; one that hangs is found all the same, within so many seconds more.
PATIENT, AT_MOST = 5, 1200


def limit(seconds):
    """Decorator: the test's time limit, where the machine has nothing else to do."""
    def mark(function):
        function.limit = min(PATIENT * seconds, AT_MOST + seconds)
        return function
    return mark


class Case:
    """A test's folder and its resources, which all end with the test."""

    LIMIT = PATIENT * 180.0

    def __init__(self, folder, tell=lambda word: None):
        self.folder = pathlib.Path(folder)
        self.tell = tell  # who runs the tests
        self.stack = contextlib.ExitStack()
        self.numbers = itertools.count(1)

    def use(self, resource):
        """Ends `resource` (a context manager) with the test; returns it."""
        return self.stack.enter_context(resource)

    def guest(self, *args, **options):
        """A Guest with its logs in the test's folder."""
        name = f"guest{next(self.numbers)}"
        return self.use(Guest(*args, folder=self.folder, name=name, **options))

    def soft_disk(self, chain, **options):
        """A disk served by `devtap run` with its logs in the test's folder."""
        return self.use(SoftDisk(chain, self.folder, **options))

    def no_soft_disk(self, why, chain, **options):
        """A disk that `devtap run` must refuse to serve, and say why (a regular expression)."""
        try:
            SoftDisk(chain, self.folder, **options).kill()
        except RuntimeError as error:
            assert re.search(why, str(error)), error
        else:
            raise AssertionError(f"{chain} is served")

    @contextlib.contextmanager
    def waiting(self):
        """What is done with it takes so long, and so little work, that another test may run meanwhile."""
        self.tell("waits")
        yield
        self.tell("works")

    def wait(self, seconds):
        """Sleeps so long."""
        with self.waiting():
            time.sleep(seconds)

    def sparse_file(self, size, name="disk.img"):
        """A new file of `size` bytes without blocks."""
        path = self.folder / name
        with open(path, "xb") as file:
            file.truncate(size)
        return path

    @staticmethod
    def equal(found, expected, what=""):
        """Fails with both values unless they are equal."""
        assert found == expected, f"{what + ': ' if what else ''}{found!r}, not {expected!r}"

    def debian_disk(self):
        """A copy of the bootable Debian disk, which the test may change."""
        path = self.folder / "debian.img"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", paths.image("disk"), path],
                       check=True)
        return path

    def captive(self, name):
        """The extension tests/captive/NAME.c, built as a user would."""
        out = self.folder / f"{name}.so"
        for folder in (self.folder, self.folder.parent):
            folder.chmod(0o755)  # a process of its own that runs it has a user of its own
        subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", f"-I{paths.SOURCE}/include", "-o", out,
                        paths.SOURCE / f"tests/captive/{name}.c"], check=True)
        return out

    def log(self, *words):
        """Prints to the test's log."""
        print(*words, flush=True)

    @staticmethod
    def skip(reason):
        """Ends the test as skipped."""
        raise Skip(reason)

    def close(self):
        """Ends all resources, the newest first."""
        self.stack.close()
