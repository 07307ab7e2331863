"""A pool from its making to a guest on a clone, with a snapshot and verified data."""

import json
import os
import random
import re
import shutil
import struct
import subprocess

from devtap_test.load import file_system, fio_verify, kernel_errors
from devtap_test.paths import SOURCE
from devtap_test.pool import PoolProcess, binary, check, cvd
from devtap_test.process import Process, free_socket_path, wait_for

MIB = 1 << 20


def template(t):
    """A pool with a labelled snapshot of a small image."""
    pool, image = t.folder / "pool", t.folder / "image"
    with open(image, "wb") as f:
        f.write(b"begin" * 1000)
        f.seek(20 << 20)
        f.write(b"end" * 1000)
    cvd("pool", "create", pool, "--size", "1G")
    cvd("create", f"{pool}/base", "--size", "256M")
    cvd("fill", f"{pool}/base", image)
    cvd("snap", f"{pool}/base", "--name", "v1")
    cvd("label", f"{pool}/base@v1")
    return pool, image


def test_names(t):
    """A pool by a link in the folder of names, for all commands and for the process that serves it."""
    pool, _ = template(t)
    names = t.folder / "names"
    names.mkdir()
    (names / "ssd").symlink_to(pool)
    os.environ["DEVTAP_POOLS"] = str(names)
    try:
        cvd("dup", "ssd/base@v1", "vm", "--count", 2)
        t.equal(len(json.loads(cvd("list", "ssd", "--json"))), 3)
        t.use(PoolProcess("ssd", t.folder))
        cvd("snap", "ssd/vm1", "ssd/vm2", "--name", "s")
        check(pool)
        cvd("pool", "close", "ssd")
        assert "ssd2" in cvd("list", "ssd2", status=3), "an unknown name is not told"
    finally:
        del os.environ["DEVTAP_POOLS"]


def test_program(t):
    """The commands, their output as JSON, and their exit statuses."""
    pool, image = template(t)
    cvd("dup", f"{pool}/base@v1", "vm", "--count", 4)
    names = [d["name"] for d in json.loads(cvd("list", pool, "--json"))]
    t.equal(len(names), 5)
    cvd("export", f"{pool}/vm3", t.folder / "copy")
    content = (t.folder / "copy").read_bytes()
    t.equal(content[:image.stat().st_size], image.read_bytes())
    assert not any(content[image.stat().st_size:]), "what was not in the image is not zero"
    assert "vm1" in cvd("unlabel", f"{pool}/base@v1", status=4), "it does not name a clone"
    cvd("delete", f"{pool}/base@v1", status=4)
    cvd("create", f"{pool}/vm3", "--size", "1M", status=1)
    cvd("snaps", f"{pool}/nobody", status=3)
    cvd("create", pool, status=2)
    for name in names[1:]:
        cvd("delete", f"{pool}/{name}")
    cvd("unlabel", f"{pool}/base@v1")
    cvd("delete", f"{pool}/base")
    t.equal(json.loads(cvd("list", pool, "--json")), [])
    found = json.loads(cvd("pool", "check", pool, "--data", "--json"))
    t.equal((found["findings"], found["blocks"]), ([], 0))


def test_ways_to_say_it(t):
    """As users of rbd, zfs and qemu-img write it."""
    pool = t.folder / "pool"
    cvd("pool", "create", pool, "--size", "200M")
    made = json.loads(cvd("create", f"{pool}/a", "16M", "--json"))
    cvd("create", f"{pool}/b", "--size", "16M")
    ids = {d["name"]: d["id"] for d in json.loads(cvd("list", pool, "--json"))}
    t.equal(made["id"], ids["a"])
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", ids["a"]) and ids["a"] != ids["b"], ids
    t.equal(cvd("snap", "create", f"{pool}/a@one"), "a@one\n")
    t.equal(cvd("snap", f"{pool}/a@two", f"{pool}/b@three"), "a@two\nb@three\n")
    cvd("snap", f"{pool}/a@x", f"{pool}/b", status=2)
    cvd("snap", f"{pool}/a@x", "--name", "y", status=2)
    cvd("snap", "protect", f"{pool}/a@two")
    cvd("clone", f"{pool}/a@two", f"{pool}/new")
    cvd("mv", f"{pool}/new", f"{pool}/other")
    assert "two pools" in cvd("mv", f"{pool}/other", f"{pool}2/new", status=2)
    cvd("snap", "rename", f"{pool}/a@one", f"{pool}/a@first")
    cvd("rename", f"{pool}/a@first", "@zero")
    assert "stays with its disk" in cvd("rename", f"{pool}/a@zero", "b@zero", status=2)
    t.equal([s["name"] for s in json.loads(cvd("snaps", f"{pool}/a", "--json"))], ["two", "zero"])
    cvd("resize", f"{pool}/b", "+8M")
    cvd("resize", f"{pool}/a", "--size", "32M")
    t.equal([d["size"] for d in json.loads(cvd("list", pool, "--json"))][:2], [32 * MIB, 24 * MIB])
    cvd("sync", f"{pool}/a")
    assert "not read" in cvd("check", f"{pool}/a", "--data=off")
    cvd("dup", f"{pool}/a@two", "many", "--count", 7)
    assert "'other', 'many1', 'many2', 'many3' and 4 more" in cvd("unlabel", f"{pool}/a@two", status=4)
    assert "'a'" in cvd("destroy", f"{pool}/a"), "labelled snapshots that stay are not told of"
    cvd("export", f"{pool}/b", "-", status=2)
    assert "fill" in cvd("import", "x", f"{pool}/b", status=2)
    assert "cannot make" in cvd("pool", "create", t.folder / "no/such", "--size", "10M", status=3)


def crc32c(data):
    """Bit by bit: the test's own."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
        table.append(value)
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xffffffff


def rewrite(pool, blocks, offset, text):
    """Bytes of the label (block 0) or of all roots (the blocks after it), with a checksum that is right."""
    with open(pool, "r+b") as f:
        for block in blocks:
            f.seek(4096 * block)
            data = bytearray(f.read(4096))
            if not any(data):
                continue
            data[offset:offset + len(text)] = text
            data[12:16] = bytes(4)
            data[12:16] = struct.pack("<I", crc32c(data))
            f.seek(4096 * block)
            f.write(data)


def test_not_opened(t):
    """What is no pool, or not for this program, or not all there, is said in a line, and stays as it is."""
    whole = t.folder / "whole"
    cvd("pool", "create", whole, "--size", "64M", "--share", "on")
    cvd("create", f"{whole}/a", "--size", "16M")
    label, roots = (0,), range(1, 9)
    newer = struct.pack("<I", 99)
    for name, change, said in (
            ("version", lambda p: rewrite(p, label, 8, newer), "has version 99; this program knows version"),
            ("root", lambda p: rewrite(p, roots, 8, newer), "root of version 99; this program knows version"),
            ("features", lambda p: rewrite(p, roots, 114, b"\xff\xff"), "that this program does not know: use a newer one"),
            ("short", lambda p: os.truncate(p, 60 * MIB), "was cut short: it has 15360 blocks, and had 16384"),
            ("label", lambda p: rewrite(p, label, 0, b"x"), "is no pool"),
            ("rotten", lambda p: [damage(p, at) for at in (100, 10 * 4096 + 100)], "is damaged: its label, and the copy of it"),
            ("rootless", lambda p: [damage(p, 4096 * r + 100) for r in roots], "is damaged: it has no valid root"),
            ("empty", lambda p: os.truncate(p, 0), "is no pool: it has 0 bytes")):
        pool = t.folder / name
        shutil.copy(whole, pool)
        change(pool)
        before = pool.read_bytes()
        for words in (("list", pool), ("create", f"{pool}/b", "--size", "1M"), ("pool", "check", pool), ("pool", "open", pool)):
            done = subprocess.run([binary(), *map(str, words)], capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode and said in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)
        t.equal(pool.read_bytes() == before, True, f"{name} is as it was")
    damage(whole, 100)
    cvd("list", whole)
    cvd("create", f"{whole}/b", "--size", "1M")
    with open(whole, "rb") as f:
        first = f.read(4096)
        f.seek(10 * 4096)
        t.equal(first == f.read(4096), True, "who may write mends the label")


def damage(path, at):
    """A byte."""
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1]))


def test_manual_page(t):
    """Every command, with all of its options, stands in the manual, in its own help, and what completes it."""
    page = (SOURCE / "man/cvd.1.scd").read_text()
    synopses, others = {}, page.partition("# OTHER NAMES")[2].partition("\n# ")[0]
    for command, line in re.findall(r"^\*([a-z][a-z -]*)\* (_POOL_.*)", page, re.M):
        synopses.setdefault(command, set()).update(re.findall(r"\*--([a-z-]+)\*", line))
    for line in cvd("--completion-data").splitlines():
        command, _, words = line.partition(":")
        if command not in synopses and f"*{command}*" in others:
            continue
        options = set(re.findall(r"--([a-z-]+)", words)) - {"help", "json"}
        usage = cvd(*command.split(), "--help").partition("\n\n")[0]
        t.equal(synopses.pop(command, set()) - {"json"}, options, f"cvd(1), {command}")
        t.equal(set(re.findall(r"--([a-z-]+)", usage)) - {"json"}, options, usage)
    t.equal(synopses, {}, "commands that do not exist")


def test_share(t):
    """Equal blocks of two disks and zeroes: stored once, charged twice, read right, and counted."""
    pool, image = t.folder / "pool", t.folder / "image"
    data = random.Random(3).randbytes(2 * MIB)
    image.write_bytes(data + bytes(MIB) + data)
    cvd("pool", "create", pool, "--size", "256M", "--share", "on")
    assert "does not share" in cvd("pool", "share", other_pool(t), "--now", status=2)
    for name in ("a", "b"):
        cvd("create", f"{pool}/{name}", "--size", "16M")
        cvd("fill", f"{pool}/{name}", image)
    before = json.loads(cvd("pool", "info", pool, "--json"))
    told = json.loads(cvd("pool", "share", pool, "--now", "--json"))
    t.equal((told["saved"], told["share"]), (6 * MIB, "on"))
    assert told["merged"] and not told["different"], f"{told}"
    after = json.loads(cvd("pool", "info", pool, "--json"))
    t.equal(after["saved"], 6 * MIB)
    gained = before["used"] - after["used"]
    assert gained > after["saved"] - before["saved"] - MIB, f"the pool gained {gained} bytes"
    for name in ("a", "b"):
        (usage,) = json.loads(cvd("du", f"{pool}/{name}", "--json"))
        t.equal((usage["charged"], usage["shared"], usage["held"]), (4 * MIB, 4 * MIB, 0))
    t.use(PoolProcess(pool, t.folder))
    served_meanwhile(t, pool, image)
    cvd("pool", "close", pool)
    check(pool)


def other_pool(t):
    cvd("pool", "create", t.folder / "other", "--size", "1M")
    return t.folder / "other"


def served_meanwhile(t, pool, image):
    """The janitor of the process that serves it finds what is written, at a rate set meanwhile."""
    told = json.loads(cvd("pool", "share", pool, "writes", "--rate", "64M", "--json"))
    t.equal((told["share"], told["rate"]), ("writes", 64 * MIB))
    cvd("create", f"{pool}/c", "--size", "16M")
    cvd("fill", f"{pool}/c", image)
    wait_for("the third disk to share its blocks with the others",
             lambda: json.loads(cvd("pool", "share", pool, "--json"))["saved"] == 10 * MIB)
    assert "background" in cvd("pool", "share", pool, "--now", status=4)
    cvd("export", f"{pool}/c", t.folder / "copy")
    t.equal((t.folder / "copy").read_bytes()[:image.stat().st_size], image.read_bytes())
    cvd("delete", f"{pool}/a")
    wait_for("the deleted disk to be given back",
             lambda: json.loads(cvd("pool", "share", pool, "--json"))["saved"] == 6 * MIB)


def test_guest(t):
    """A guest works on a clone and a snapshot is taken meanwhile; then the pool is whole."""
    pool, _ = template(t)
    cvd("dup", f"{pool}/base@v1", "vm1")
    disk = t.soft_disk(f"cvd-local pool={pool} name=vm1")
    guest = t.guest([disk.socket], smp=2)
    t.equal(guest.check("head -c 5 /dev/vda"), "begin")
    cvd("delete", f"{pool}/vm1", status=4)
    file_system(guest, "ext4")
    disk.devtap("do", disk.address, "cvd-local", "snapshot", "one")
    fio_verify(guest, size="24m")
    t.equal(kernel_errors(guest), "")
    names = [s["name"] for s in json.loads(cvd("snaps", f"{pool}/vm1", "--json"))]
    assert "one" in names, f"{names}"
    guest.power_off()
    disk.stop()
    t.equal(json.loads(cvd("pool", "check", pool, "--data", "--json"))["findings"], [])
    cvd("collapse", f"{pool}/vm1@one", "@one", status=2)
    cvd("delete", f"{pool}/vm1@one")
    t.equal(json.loads(cvd("pool", "check", pool, "--json"))["findings"], [])


def sparse_image(folder):
    """A raw image of 48 MiB with 3 MiB of data, the last of it within a block."""
    raw = folder / "image.raw"
    data = random.Random(5)
    with open(raw, "wb") as file:
        for at, size in ((0, MIB), (20 * MIB, MIB), (47 * MIB, MIB - 1536)):
            file.seek(at)
            file.write(data.randbytes(size))
    return raw


def content(pool, name, folder):
    """The bytes of a disk."""
    copy = folder / f"copy-{name}"
    cvd("export", f"{pool}/{name}", copy)
    return copy.read_bytes()


def test_fill(t):
    """From raw, from qcow2 with a base, from an NBD server; holes stay holes; what is doubtful is refused."""
    raw, pool = sparse_image(t.folder), t.folder / "pool"
    expected = raw.read_bytes()
    expected += bytes(64 * MIB - len(expected))
    base, top = t.folder / "base.qcow2", t.folder / "top.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, base], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top], check=True)
    cvd("pool", "create", pool, "--size", "512M")
    for name in ("raw", "qcow2", "nbd"):
        cvd("create", f"{pool}/{name}", "--size", "64M")
    cvd("fill", f"{pool}/raw", raw)
    assert "--format qcow2" in cvd("fill", f"{pool}/qcow2", top, status=2)
    cvd("fill", f"{pool}/qcow2", raw, "--format", "vmdk", status=2)
    cvd("fill", f"{pool}/qcow2", raw, "--format", "qcow2", status=1)
    done = json.loads(cvd("fill", f"{pool}/qcow2", top, "--format", "qcow2", "--json"))
    t.equal(done["name"], "qcow2")
    socket = free_socket_path(t.folder, "nbd.sock")
    t.use(Process(["nbdkit", "-f", "-U", socket, "file", raw], t.folder, ready_socket=socket))
    process = t.use(PoolProcess(pool, t.folder))
    cvd("fill", f"{pool}/nbd", f"nbd+unix:///?socket={socket}")
    cvd("fill", f"{pool}/nbd", "nbd+unix:///?socket=/nonexistent", status=3)
    for name in ("raw", "qcow2", "nbd"):
        assert content(pool, name, t.folder) == expected, f"{name} differs"
        mapped = json.loads(cvd("du", f"{pool}/{name}", "--json"))[0]["mapped"]
        t.equal(mapped, 3 * MIB - 4096 * (1536 // 4096), f"{name}: holes")
    process.stop()
    check(pool)


def test_pictures(t):
    """The tree as a picture, and a clear line where nobody can draw it."""
    pool, _ = template(t)
    cvd("dup", f"{pool}/base@v1", "vm1")
    picture = cvd("tree", pool, "--format", "svg")
    assert "<svg" in picture and "vm1" in picture and "base@v1" in picture, picture[:300]
    t.equal({row["name"]: row["on"] for row in json.loads(cvd("tree", pool, "--json"))},
            {"base": "base@v1", "base@v1": None, "vm1": "base@v1"})
    cvd("dup", f"{pool}/base@v1", "many", "--count", 9)
    cvd("snap", f"{pool}/many3", "--name", "own")
    for options in ((), ("--format", "dot")):
        drawn = cvd("tree", pool, *options)
        assert "9 clones: vm1 ... many9" in drawn and "many3" in drawn and "many2" not in drawn, drawn
        assert "many2" in cvd("tree", pool, "--all", *options)
    alone = subprocess.run([binary(), "tree", pool, "--format", "svg"], capture_output=True, text=True,
                           env=dict(os.environ, PATH="/nonexistent"), check=False, timeout=120)
    t.equal(alone.returncode, 3)
    assert "graphviz" in alone.stderr, alone.stderr
    cvd("tree", pool, "--format", "gif", status=2)


def test_other_names(t):
    """What rbd, zfs, qemu-img and the thesis call things; and every command speaks JSON."""
    pool, _ = template(t)
    t.equal(json.loads(cvd("snap", "create", f"{pool}/base", "--name", "v2", "--json")), ["base@v2"])
    t.equal(json.loads(cvd("snap", "protect", f"{pool}/base@v2", "--json")),
            {"done": "label", "to": f"{pool}/base@v2"})
    cvd("clone", f"{pool}/base@v2", "vm")
    t.equal([s["name"] for s in json.loads(cvd("snap", "ls", f"{pool}/base", "--json"))], ["v2", "v1"])
    t.equal(sorted(d["name"] for d in json.loads(cvd("ls", pool, "--json"))), ["base", "vm"])
    assert "no disk needs it" in cvd("flatten", f"{pool}/vm", status=2)
    assert "usage: cvd dup" in cvd("clone", "--help")
    process = t.use(PoolProcess(pool, t.folder))  # the same, where it is served
    cvd("rm", f"{pool}/vm")
    t.equal(json.loads(cvd("snap", "unprotect", f"{pool}/base@v2", "--json"))["done"], "unlabel")
    cvd("snap", "rm", f"{pool}/base@v2")
    t.equal([s["name"] for s in json.loads(cvd("snap_list", f"{pool}/base", "--json"))], ["v1"])
    process.stop()
    check(pool)


def test_bench(t):
    """The measurement of a clone, which is gone afterwards; where the pool is served, and where not."""
    pool, _ = template(t)
    for served in (False, True):
        process = t.use(PoolProcess(pool, t.folder)) if served else None
        result = json.loads(cvd("bench", f"{pool}/base", "--time", "2s", "--rw", "randrw", "--json"))
        t.equal(result["errors"], 0)
        assert result["requests"] > 0, result
        t.equal([d["name"] for d in json.loads(cvd("list", pool, "--json"))], ["base"])
        t.equal([s["name"] for s in json.loads(cvd("snaps", f"{pool}/base", "--json"))], ["v1"])
        cvd("bench", f"{pool}/base", "--rw", "sideways", status=2)
        cvd("bench", f"{pool}/none", status=3)
        t.equal(len(json.loads(cvd("list", pool, "--json"))), 1)
        if process:
            process.stop()
    check(pool)
