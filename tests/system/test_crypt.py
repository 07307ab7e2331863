"""Encrypted disks: what devtap writes opens elsewhere, and the other way round."""

import contextlib
import json
import os
import pathlib
import pty
import signal
import subprocess
import termios

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.load import noise
from devtap_test.nbdkit import get, put
from devtap_test.process import PATIENCE
from devtap_test.softdisk import SoftDisk
from devtap_test.storage import KEY, luks

MIB = 1 << 20


def refused(t, chain):
    """Exit status and last line of `devtap run` on a chain that does not open."""
    done = subprocess.run([SoftDisk.binary(), "run", "--disk", "v", "--socket", t.folder / "v.sock",
                           "--control", "none", chain], capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, check=False)
    return done.returncode, done.stderr.strip().splitlines()[-1]


def kill_worker(disk):
    """Kills it; returns when another serves."""
    old = disk.kill_worker()
    wait_for("a successor", lambda: disk.worker() != old)


def give_key(guest):
    """Puts the key file into the guest."""
    guest.check(f"printf '{KEY.decode()}' >/tmp/key; modprobe dm_crypt; modprobe xts; modprobe ecb")


@limit(600)
def test_kernel_opens_it(t):
    """dm-crypt in a guest reads what devtap wrote, and devtap what dm-crypt wrote."""
    image, key = luks(t, "--sector-size", "4096")
    chain = f"crypt key-file={key} | file path={image}"
    with t.soft_disk(chain) as disk, t.guest([disk.socket]) as guest:
        guest.check("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && "
                    f"{noise(20)} >/mnt/a")
        ours = guest.check("sha256sum </mnt/a; umount /mnt")
        t.equal(disk.stats()["crypt"]["counters"]["encrypted-bytes"] > 20 * MIB, True)
    assert image.read_bytes().find(b"lost+found") < 0, "plain text is on the disk"
    with t.soft_disk(f"file path={image}") as disk, t.guest([disk.socket]) as guest:
        give_key(guest)
        guest.check("cryptsetup open --key-file /tmp/key /dev/vda x && e2fsck -fn /dev/mapper/x && "
                    "mount /dev/mapper/x /mnt")
        t.equal(guest.check("sha256sum </mnt/a"), ours, "read by dm-crypt")
        guest.check(f"{noise(10)} >/mnt/b")
        theirs = guest.check("sha256sum </mnt/b; umount /mnt; cryptsetup close x")
    with t.soft_disk(chain) as disk, t.guest([disk.socket]) as guest:
        guest.check("e2fsck -fn /dev/vda && mount /dev/vda /mnt")
        t.equal(guest.check("sha256sum </mnt/a"), ours, "what devtap wrote")
        t.equal(guest.check("sha256sum </mnt/b"), theirs, "what dm-crypt wrote")


def worker_of(folder, disk):
    """The process id of its worker, or None while nobody can be asked."""
    done = subprocess.run([SoftDisk.binary(), "show", "--json", disk], text=True, timeout=120,
                          env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(folder)),
                          capture_output=True, check=False)
    return json.loads(done.stdout)["worker"] if done.returncode == 0 else None


@contextlib.contextmanager
def at_terminal(t, image, *options):
    """`devtap run` of a disk whose passphrase a person types."""
    person, terminal = pty.openpty()
    disk = subprocess.Popen([SoftDisk.binary(), "run", *options, "--disk", "v", "--socket",
                             t.folder / "v.sock", f"crypt prompt=on | file path={image}"],
                            env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder)), stdin=terminal,
                            stderr=subprocess.PIPE)
    try:
        t.equal(disk.stderr.read(18), b"Passphrase for v: ")
        wait_for("a terminal that does not echo",
                 lambda: not termios.tcgetattr(terminal)[3] & termios.ECHO)
        os.write(person, b"spoken words\n")
        t.equal(disk.stderr.readline(), b"\n")
        t.equal(disk.stderr.readline(), b"devtap: ready\n")
        assert termios.tcgetattr(terminal)[3] & termios.ECHO, "the terminal stays silent"
        yield
    finally:
        disk.terminate()
        disk.wait(120)


def test_prompt(t):
    """A person at a terminal is asked, once, and what is typed is not shown; workers that follow have it."""
    image, _ = luks(t, size=20, key_bytes=b"spoken words")
    with at_terminal(t, image, "--single"):
        pass
    with at_terminal(t, image):
        for _ in range(2):
            old = worker_of(t.folder, "v")
            os.kill(old, signal.SIGKILL)
            wait_for("a successor", lambda: worker_of(t.folder, "v") not in (None, old))
    wait_for("the kernel to forget the key",
             lambda: "devtap-prompt" not in pathlib.Path("/proc/keys").read_text("utf-8"))


def test_detached(t):
    """A header of its own file, made by cryptsetup; the worker is killed and its successor has the key."""
    image, key = t.sparse_file(16 * MIB), t.folder / "key"
    header = t.folder / "header"
    key.write_bytes(KEY)
    subprocess.run(["cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--key-file", key,
                    "--pbkdf-force-iterations", "1000", "--header", header, image], check=True)
    disk = t.soft_disk(f"crypt key-file={key} header={header} | file path={image}")
    guest = t.guest([disk.socket])
    fio = ("fio --name=v --filename=/dev/vda --ioengine=libaio --direct=1 --rw=randwrite --bs=4k "
           "--iodepth=8 --size=16m --verify=crc32c --verify_fatal=1 --output-format=terse")
    guest.check(fio + " --do_verify=0")
    kill_worker(disk)
    guest.check(fio + " --verify_only")
    t.equal(disk.do("crypt", "status").split()[:2], ["cipher:", "aes-xts-plain64"])


def test_qemu_opens_it(t):
    """QEMU's own driver of LUKS version 1 reads what devtap wrote."""
    image, key = luks(t, "--type", "luks1", "--cipher", "aes-xts-plain64", "--key-size", "512",
                      size=18, key_bytes=b"one line")
    secret = ["--object", f"secret,id=s,file={key}"]
    ours, content = t.folder / "ours", os.urandom(16 * MIB)
    ours.write_bytes(content)
    with t.soft_disk(f"crypt key-file={key} | file path={image}") as disk:
        put(t, disk, ours)
    subprocess.run(["qemu-img", "convert", *secret, "--image-opts", "-O", "raw",
                    f"driver=luks,key-secret=s,file.filename={image}", t.folder / "plain"], check=True)
    assert (t.folder / "plain").read_bytes() == content, "QEMU reads something else"


def test_refusals(t):
    """Each has one line and its exit status."""
    image, key = luks(t, size=20)
    bad = t.folder / "bad"
    bad.write_bytes(KEY + b"\n")
    status, line = refused(t, f"crypt key-file={bad} | file path={image}")
    t.equal((status, "opens no key slot" in line), (5, True), line)
    status, line = refused(t, f"crypt prompt=on | file path={image}")
    t.equal((status, "needs a terminal" in line), (2, True), line)
    with open(image, "r+b") as file:
        file.truncate(16 * MIB)
    status, line = refused(t, f"crypt key-file={key} | file path={image}")
    t.equal((status, "cut off" in line), (6, True), line)
    with open(image, "r+b") as file:
        file.write(bytes(64 << 10))
    status, line = refused(t, f"crypt key-file={key} | file path={image}")
    t.equal((status, "no LUKS header" in line), (6, True), line)


@limit(600)
def test_rekey_online(t):
    """The volume key changes under a guest's verified load while workers die; cryptsetup agrees in the end."""
    image, key = luks(t, "--sector-size", "4096", size=48)
    subprocess.run(["cryptsetup", "reencrypt", "--init-only", "-q", "--resilience", "journal",
                    "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key,
                    image], check=True)
    disk = t.soft_disk(f"crypt key-file={key} | delay ops=write time=5ms | file path={image}")
    guest = t.guest([disk.socket])
    fio = ("fio --name=v --filename=/dev/vda --ioengine=libaio --direct=1 --rw=randwrite --bs=4k "
           "--iodepth=8 --size=24m --verify=crc32c --verify_fatal=1 --output-format=terse")
    for _ in range(3):
        kill_worker(disk)
    guest.check(fio + " --do_verify=0")
    kill_worker(disk)
    guest.check(fio + " --verify_only")

    def done():
        return disk.events("rekey-done")
    wait_for("the new key", done, timeout=3 * PATIENCE)
    guest.check(fio + " --verify_only")
    disk.stop()
    dump = subprocess.run(["cryptsetup", "luksDump", image], check=True, capture_output=True,
                          text=True).stdout
    assert "Requirements" not in dump and "  1: luks2" in dump and "  0: luks2" not in dump, dump
    subprocess.run(["cryptsetup", "open", "--test-passphrase", "--key-file", key, image], check=True)
    chain = f"crypt key-file={key} | file path={image}"
    with t.soft_disk(chain) as again, t.guest([again.socket]) as guest:
        guest.check(fio + " --verify_only")


@limit(600)
def test_rekey_handed_over(t):
    """What devtap began, cryptsetup repairs and finishes."""
    image, key = luks(t, size=64)
    ours, content = t.folder / "ours", os.urandom(40 * MIB)
    ours.write_bytes(content)
    with t.soft_disk(f"crypt key-file={key} | file path={image}") as disk:
        put(t, disk, ours)
    subprocess.run(["cryptsetup", "reencrypt", "--init-only", "-q", "--pbkdf", "pbkdf2",
                    "--pbkdf-force-iterations", "1000", "--key-file", key, image], check=True)
    with t.soft_disk(f"crypt key-file={key} | delay ops=write time=50ms | file path={image}",
                     options=["--single"]) as disk:
        wait_for("progress", lambda: disk.stats()["crypt"]["counters"]["rekeyed-bytes"] > 3 * MIB)
        disk.kill()
    before = image.read_bytes()[:16 * MIB]
    subprocess.run(["cryptsetup", "repair", "-q", "--key-file", key, image], check=True)
    subprocess.run(["cryptsetup", "reencrypt", "--resume-only", "-q", "--force-offline-reencrypt",
                    "--key-file", key, image], check=True)
    assert image.read_bytes()[:16 * MIB] != before, "cryptsetup found nothing to do"
    with t.soft_disk(f"crypt key-file={key} | file path={image}") as disk:
        assert get(t, disk)[:40 * MIB] == content, "it is not what was written"


def test_conformance(t):
    """What every layer promises, with the header in the disk and the data moved."""
    image, key = luks(t, "--sector-size", "512", size=64)
    subprocess.run([SoftDisk.binary(), "test", "--duration", "200ms", "--patience", "40s",
                    f"crypt discard=on key-file={key} | file path={image}"], check=True, timeout=5 * PATIENCE)
