"""Snapshots from one pool to another: whole, incremental, broken off and gone on with, refused."""

import hashlib
import json
import os
import random
import signal
import subprocess

from devtap_test import wait_for
from devtap_test.case import limit
from devtap_test.pool import PoolProcess, binary, check, cvd

MIB = 1 << 20


def digest(t, pool, name):
    """SHA-256 of a disk's or snapshot's contents."""
    path = t.folder / "exported"
    cvd("export", f"{pool}/{name}", path)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(file.read())
    path.unlink()
    return found.hexdigest()


def make(t, name, size="2G"):
    pool = t.folder / name
    cvd("pool", "create", pool, "--size", size)
    return pool


def fill(t, pool, disk, seed, mib, hole=4):
    """Replaces the disk's contents by noise with a hole behind it."""
    image = t.folder / "image"
    with open(image, "wb") as file:
        file.write(random.Random(seed).randbytes(mib * MIB))
        file.truncate((mib + hole) * MIB)
    cvd("fill", f"{pool}/{disk}", image)


def source(t, mib=8):
    """A disk with three snapshots: noise, other noise and less of it, text."""
    pool = make(t, "from")
    cvd("create", f"{pool}/a", "--size", "256M")
    fill(t, pool, "a", 1, mib)
    cvd("snap", f"{pool}/a", "--name", "one")
    fill(t, pool, "a", 2, mib // 2)
    cvd("snap", f"{pool}/a", "--name", "two")
    (t.folder / "image").write_bytes(b"text " * 100000)
    cvd("fill", f"{pool}/a", t.folder / "image")
    cvd("snap", f"{pool}/a", "--name", "three")
    return pool


def copy(pool, snapshot, to, *options, receive=(), status=0):
    """cvd send | cvd receive. Returns what receive said."""
    with subprocess.Popen([binary(), "send", f"{pool}/{snapshot}", *options],
                          stdout=subprocess.PIPE) as sender:
        done = subprocess.run([binary(), "receive", str(to), *receive], stdin=sender.stdout,
                              capture_output=True, text=True, timeout=120, check=False)
        sender.stdout.close()
        sender.wait(120)
    t_error = f"{done.returncode}: {done.stderr}"
    assert done.returncode == status, t_error
    return done.stderr if status else done.stdout


def same_snapshots(t, one, two, disk="a", other="b"):
    for snapshot in json.loads(cvd("snaps", f"{two}/{other}", "--json")):
        name = snapshot["name"]
        t.equal(digest(t, one, f"{disk}@{name}"), digest(t, two, f"{other}@{name}"), name)


@limit(60)
def test_round_trip(t):
    """Whole and incremental, plain and zstd, by pipe and by file; contents and times are the same."""
    one, two = source(t), make(t, "to")
    done = json.loads(copy(one, "a@one", f"{two}/b", receive=["--json"]))
    t.equal((done["disk"], done["snapshot"], done["size"]), ("b", "one", 256 * MIB))
    t.equal(digest(t, two, "b"), digest(t, one, "a@one"), "the disk itself")
    copy(one, "a@three", f"{two}/b", "--from", "@one", "--zstd")
    same_snapshots(t, one, two)
    stream = t.folder / "stream"
    sent = json.loads(cvd("send", f"{one}/a@two", "--output", stream, "--json"))
    t.equal(sent["bytes"], stream.stat().st_size)
    cvd("send", f"{one}/a@two", "--output", stream, status=1)
    with open(stream, "rb") as file:
        subprocess.run([binary(), "receive", f"{two}/whole"], stdin=file, check=True, timeout=120)
    t.equal(digest(t, two, "whole@two"), digest(t, one, "a@two"))
    times = [{s["name"]: s["created"] for s in json.loads(cvd("snaps", f"{p}/{d}", "--json"))}
             for p, d in ((one, "a"), (two, "b"))]
    for name, created in times[1].items():
        t.equal(created, times[0][name], "time of " + name)
    # What was received can be sent on, under the same identity.
    three = make(t, "third")
    copy(two, "b@one", f"{three}/c")
    copy(one, "a@two", f"{three}/c", "--from", "@one")
    t.equal(digest(t, three, "c"), digest(t, one, "a@two"))
    for pool in (one, two, three):
        check(pool)


@limit(60)
def test_refused(t):
    """A base that is not there, one that is another, a disk that was written to, what is no stream."""
    one, two = source(t), make(t, "to")
    text = copy(one, "a@two", f"{two}/b", "--from", "@one", status=3)
    assert "'one'" in text and "no disk 'b'" in text, text
    copy(one, "a@two", f"{two}/b")
    text = copy(one, "a@three", f"{two}/b", "--from", "@one", status=1)
    assert "'one'" in text and "'two'" in text, text
    text = copy(one, "a@one", f"{two}/b", status=1)
    assert "there is a disk 'b'" in text, text
    cvd("send", f"{one}/a@one", "--from", "@two", status=2)
    assert "cvd snap" in cvd("send", f"{one}/a", status=2)
    fill(t, two, "b", 9, 1)
    before = digest(t, two, "b")
    text = copy(one, "a@three", f"{two}/b", "--from", "@two", status=1)
    assert "was changed since" in text, text
    t.equal(digest(t, two, "b"), before, "a refused stream changed the disk")
    cvd("rollback", f"{two}/b@two")
    copy(one, "a@three", f"{two}/b", "--from", "@two")
    same_snapshots(t, one, two)
    stream = t.folder / "stream"
    cvd("send", f"{one}/a@one", "--output", stream)
    damaged = bytearray(stream.read_bytes())
    damaged[5 * MIB] ^= 1
    done = subprocess.run([binary(), "receive", f"{two}/c"], input=bytes(damaged),
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == 6 and b"checksum" in done.stderr, done
    assert "c" not in [d["name"] for d in json.loads(cvd("list", two, "--json"))]
    cvd("delete", f"{two}/c~")
    done = subprocess.run([binary(), "receive", f"{two}/c"], input=b"x" * 1000,
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == 6 and b"no stream" in done.stderr, done
    check(two)


@limit(90)
def test_broken_off(t):
    """A stream ends in the middle, and the receiver is killed in the middle; both are gone on with."""
    one, two = source(t, mib=160), make(t, "to")
    stream = t.folder / "stream"
    cvd("send", f"{one}/a@one", "--output", stream)
    data = stream.read_bytes()
    # It ends early: the token says where, and only the rest is sent.
    done = subprocess.run([binary(), "receive", f"{two}/b"], input=data[:50 * MIB],
                          capture_output=True, text=False, timeout=120, check=False)
    token = cvd("receive", f"{two}/b", "--status").strip()
    assert done.returncode == 1 and token.encode() in done.stderr, done
    at = int(token.split(":")[1])
    assert 48 * MIB <= at <= 50 * MIB, at
    text = copy(one, "a@one", f"{two}/b", status=1)
    assert "--resume" in text and "b~" in text, text
    text = copy(one, "a@two", f"{two}/b", receive=["--resume"], status=1)
    assert "another snapshot" in text, text
    # Killed, with more than one mark behind it.
    with subprocess.Popen([binary(), "receive", f"{two}/b", "--resume"],
                          stdin=subprocess.PIPE) as child:
        child.stdin.write(data[:140 * MIB])
        child.stdin.flush()
        child.send_signal(signal.SIGKILL)
        child.wait(120)
    token = cvd("receive", f"{two}/b", "--status").strip()
    assert int(token.split(":")[1]) >= at, token
    sent = json.loads(subprocess.run(
        [binary(), "send", f"{one}/a@one", "--token", token, "--output", f"{stream}2", "--json"],
        capture_output=True, text=True, check=True, timeout=120).stdout)
    assert sent["bytes"] < len(data) - int(token.split(":")[1]) + MIB, sent
    with open(f"{stream}2", "rb") as file:
        subprocess.run([binary(), "receive", f"{two}/b", "--resume"], stdin=file, check=True,
                       timeout=120)
    same_snapshots(t, one, two)
    cvd("receive", f"{two}/b", "--status", status=3)
    check(two)


@limit(90)
def test_served(t):
    """Both pools are served; what is being sent cannot be deleted; the receiving process is killed."""
    one, two = source(t, mib=96), make(t, "to")
    sending = t.use(PoolProcess(one, t.folder))
    receiving = t.use(PoolProcess(two, t.folder))
    sender = subprocess.Popen([binary(), "send", f"{one}/a@two", "--from", "@one"],
                              stdout=subprocess.PIPE)
    sender.stdout.read(1)  # it sends: both are pinned
    for name in ("one", "two"):
        assert "in use" in cvd("delete", f"{one}/a@{name}", status=4)
    sender.stdout.close()
    sender.wait(120)
    copy(one, "a@one", f"{two}/b")
    with subprocess.Popen([binary(), "send", f"{one}/a@two", "--from", "@one"],
                          stdout=subprocess.PIPE) as sender:
        data = sender.stdout.read()
    child = subprocess.Popen([binary(), "receive", f"{two}/b"], stdin=subprocess.PIPE,
                             stderr=subprocess.PIPE)
    child.stdin.write(data[:len(data) // 2])
    child.stdin.flush()
    wait_for("the disk that is written",
             lambda: "b~" in [d["name"] for d in json.loads(cvd("list", two, "--json"))])
    assert "on snapshot" in cvd("delete", f"{two}/b@one", status=4)
    cvd("snap", f"{two}/b~", status=4)
    cvd("rename", f"{two}/b~", "c", status=4)
    os.kill(receiving.worker(), signal.SIGKILL)
    try:
        child.stdin.write(data[len(data) // 2:])
        child.stdin.close()
    except BrokenPipeError:
        pass
    child.stdin = None
    child.communicate(timeout=120)
    t.equal([s["name"] for s in json.loads(cvd("snaps", f"{two}/b", "--json"))], ["one"])
    token = cvd("receive", f"{two}/b", "--status").strip()
    copy(one, "a@two", f"{two}/b", "--from", "@one", "--token", token, receive=["--resume"])
    same_snapshots(t, one, two)
    names = [d["name"] for d in json.loads(cvd("list", two, "--json"))]
    t.equal(names, ["b"])
    sending.stop()
    receiving.stop()
    check(one)
    check(two)
