"""Real Debian guests boot from, and work on, disks and a network card that are devtap's own code.

First a disk image, served through the chain trace | throttle | file, and a card through antispoof | rate | tap: the
guest works, a limit changes while it does, it floods, and packet symmetry ends that. Then a pool: the image becomes a
template with 500 clones; one of them works while a schedule takes snapshots, is broken, and is brought back.
Nothing is left behind but a picture of the pool; on failure the logs are kept and named.
"""

import contextlib
import pathlib
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests" / "lib"))

# pylint: disable=wrong-import-position
from devtap_test import SoftDisk, paths  # noqa: E402

import machine  # noqa: E402
import network  # noqa: E402
import pool  # noqa: E402
from show import show, step  # noqa: E402


def prepare():
    """Packages and images."""
    step("packages")
    subprocess.run([SOURCE / "scripts/deps", "demo"], check=True)
    step("guest image: Debian, made by mmdebstrap (cached after the first time)")
    image = paths.image("disk")
    show(image)
    return image


def tapped(stack, folder, image):
    """A guest on a disk image and a card, with taps on both."""
    copy = folder / "vm1.img"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, copy], check=True)
    trace = folder / "vm1.dtt"
    chain = f"trace out={trace} | throttle iops={machine.LIMIT} | file path={copy}"
    step("start the soft disk")
    disk = stack.enter_context(SoftDisk(chain, folder))
    show(f"devtap run --disk vm1 --socket {disk.socket} \\\n    '{chain}'")
    step("start the soft network card")
    space, card = network.serve(stack, folder)
    guest = machine.boot(stack, folder, disk, card)
    machine.work(guest)
    machine.limits(guest, disk)
    if card:
        network.flood(stack, guest, space, card)
    step("what each layer counted: devtap stats vm1")
    show(disk.devtap("stats", "vm1"))
    step("shut the guest down")
    guest.power_off()
    disk.stop()
    step("what the tap saw: devtap trace summary")
    show(disk.devtap("trace", "summary", str(trace)))


def demo(folder):
    """The whole of it."""
    image = prepare()
    if not paths.devtap():
        sys.exit("demo: no devtap binary: run make, or set DEVTAP")
    with contextlib.ExitStack() as stack:
        tapped(stack, folder, image)
    with contextlib.ExitStack() as stack:
        pool.story(stack, folder, image)
    step("done")


def main():
    """Runs the demo in a folder that is removed unless something fails."""
    if len(sys.argv) > 1:
        print("usage: python3 scripts/demo\n\n" + __doc__)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    folder = pathlib.Path(tempfile.mkdtemp(prefix="devtap-demo-"))
    try:
        demo(folder)
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        return 130
    except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
        print(f"demo: failed: {error}\ndemo: the logs are in {folder}", file=sys.stderr)
        for big in (*folder.glob("*.img"), folder / "pool"):
            big.unlink(missing_ok=True)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
