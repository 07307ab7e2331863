"""A Debian guest on a soft disk: it boots, works, and feels a limit change."""

import json

from devtap_test import Disk, Guest, card as cards, paths

from show import show, step

LIMIT, LOWER = 5000, 300

TREE = """set -e
cd /usr && tar -cf /root/tree.tar bin lib/python3*
find bin lib/python3* -type f -exec sha256sum {} + >/root/sums
mkdir -p /root/tree && tar -C /root/tree -xf /root/tree.tar
sync; echo 3 >/proc/sys/vm/drop_caches
cd /root/tree && sha256sum -c --quiet /root/sums
echo "$(wc -l </root/sums) files, $(du -sh /root/tree | cut -f1): every checksum agrees"
"""

VERIFY = """cd /root && fio --name=v --filename=/root/fio.dat --size=32m --rw=randrw --bsrange=4k-64k \
--ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1 --output-format=json"""

RATE = """fio --name=r --filename=/dev/vda --readonly --rw=randread --bs=4k --ioengine=libaio \
--direct=1 --iodepth=32 --time_based --runtime=5 --output-format=json"""


def job(text):
    """The first job of fio's JSON, which warnings may precede."""
    return json.loads(text[text.index("{"):])["jobs"][0]


def boot(stack, folder, disk, card):
    """Boots the guest from the soft disk by its own firmware and boot loader."""
    accel = paths.accelerator()
    step("boot Debian from the soft disk, " +
         ("with KVM" if accel == "kvm" else "without KVM (it does not run guests here)"))
    guest = stack.enter_context(Guest([Disk(disk.socket)], root="image", smp=2, folder=folder,
                                      reconnect=1, wait=False,
                                      extra=cards.arguments(card) if card else ()))
    guest.console.expect("GRUB reads the disk", 60)
    show("SeaBIOS has loaded GRUB, GRUB loads the kernel")
    guest.console.expect("login: root", 180)
    guest.wait_for_shell(60)
    show(f"logged in on the serial console after {guest.boot_seconds:.1f} s")
    show(guest.check(". /etc/os-release; echo \"$PRETTY_NAME, $(uname -sr)\"; "
                     "lsblk -i -o NAME,SIZE,SERIAL,MOUNTPOINTS /dev/vda"))
    return guest


def work(guest):
    """A file tree and verified load."""
    step("work: unpack a file tree, read it back cold, compare checksums")
    show(guest.check(TREE, 180))
    step("work: fio writes and verifies")
    result = job(guest.check(VERIFY, 120))
    show(f"{result['write']['total_ios']} writes verified, {result['error']} errors")


def limits(guest, disk):
    """Changes the limit while the guest runs, and lets it feel that."""
    step("change the limit while the guest runs")
    for limit in (LIMIT, LOWER, LIMIT):
        disk.set("throttle", iops=limit)
        rate = job(guest.check(RATE, 60))["read"]["iops"]
        show(f"devtap set vm1 throttle iops={limit:<5}  the guest reads "
             f"{rate:7.0f} times/s  {'#' * round(rate / 100)}")
