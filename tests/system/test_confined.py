"""What the process of a placed extension can reach, when a guest has captured it."""

import json
import os
import pathlib
import socket
import subprocess

from devtap_test import paths
from devtap_test.case import limit

MIB = 1 << 20


def open_folder(t):
    """A folder that every user may look into: an extension's process is no one else."""
    for folder in (t.folder, *t.folder.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    return t.folder


def processes(disk):
    """Supervisor, keeper and worker."""
    show = disk.show()
    return [show["pid"], show["keeper"], show["worker"]]


def judge(t, reply, least):
    """Nothing was reached."""
    t.log(json.dumps(reply, indent=1))
    t.equal([what for what, how in reply.items() if how == "REACHED"], [])
    assert sum(str(how).startswith("refused") for how in reply.values()) >= least, reply


@limit(60)
def test_hosted(t):
    """A shared object in a process: it keeps what it has open, and can reach nothing else."""
    if os.geteuid() != 0:
        t.skip("the whole sandbox needs root")
    open_folder(t)
    captured = t.captive("captured")
    disk = t.soft_disk(f"{captured} place=process | file path={t.sparse_file(16 * MIB)}")
    _, _, worker = processes(disk)
    reply = disk.do_json("captured", "attack", str(worker))
    judge(t, reply, 25)
    # The log, twice, and the shared memory of the channel.
    t.equal([int(reply[what]) for what in ("directories", "listening-sockets", "block-devices")],
            [0, 0, 0])
    assert int(reply["regular-files"]) <= 3, reply
    users = {int(reply["user"]), os.stat(f"/proc/{worker}").st_uid, 0}
    t.equal(len(users), 3, "users of extension, worker and root")


@limit(60)
def test_not_root(t):
    """Started by any user: a namespace of users gives what the others need, but no other user."""
    if os.geteuid() != 0:
        t.skip("it starts as another user, which needs root")
    user = 65534
    prefix = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
    if subprocess.run([*prefix, "unshare", "-Urn", paths.devtap(), "--version"], check=False,
                      stdout=subprocess.DEVNULL).returncode:
        t.skip("no namespaces of users here")
    open_folder(t)
    captured = t.captive("captured")
    image = t.sparse_file(16 * MIB)
    for path in (image, t.folder):
        os.chown(path, user, user)
    for place in ("in", "process"):
        disk = t.soft_disk(f"{captured} place={place} | file path={image}", prefix=prefix)
        reply = disk.do_json("captured", "attack", "1")
        judge(t, reply, 25)
        lacks = [e["text"] for e in disk.events("sandbox-lacks")]
        assert len(lacks) == 1 and lacks[0].startswith("the sandbox lacks a user of its own ("), lacks
        disk.bench("--verify", "--time", "1")
        t.equal(disk.stop(), 0, "exit status")


@limit(60)
def test_program(t):
    """A program in Python: it may read files as anybody may, and no more."""
    if os.geteuid() != 0:
        t.skip("the whole sandbox needs root")
    server = t.use(socket.create_server(("127.0.0.1", 0)))
    local = t.use(socket.socket(socket.AF_UNIX))
    path = open_folder(t) / "server.sock"
    local.bind(str(path))
    path.chmod(0o777)
    local.listen()
    build = pathlib.Path(paths.devtap()).resolve().parents[1]
    os.environ["PYTHONPATH"] = str(paths.SOURCE / "python")
    os.environ["DEVTAP_CHANNEL_LIBRARY"] = str(build / "channel/libdevtap-channel.so")
    image = t.sparse_file(16 * MIB)
    disk = t.soft_disk(f"{paths.SOURCE}/tests/captive/captured.py deadline=120s | file path={image}")
    # In its own process-id namespace the worker is 1; from outside they have other numbers.
    pids = [str(pid) for pid in [1, *processes(disk)]]
    reply = disk.do_json("captured", "attack", str(server.getsockname()[1]), str(path), str(image),
                         *pids)
    judge(t, reply, 8 + 3 * len(pids))
    t.equal(len(processes(disk)), 3, "the others live")
    assert int(reply["user"]) not in (0, os.stat(f"/proc/{processes(disk)[2]}").st_uid), reply
