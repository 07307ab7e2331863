"""Connections that a layer makes from inside its sandbox, and makes again."""

import socket
import subprocess

from devtap_test import paths, wait_for
from devtap_test.case import limit


def build(t):
    """tests/captive/connects.c, as a user would build it."""
    out = t.folder / "connects.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", f"-I{paths.SOURCE}/include", "-o", out,
                    paths.SOURCE / "tests/captive/connects.c"], check=True)
    return out


def greeted(server):
    """The next connection, once it has said hello."""
    server.settimeout(120)
    peer, _ = server.accept()
    peer.settimeout(120)
    assert peer.recv(6) == b"hello\n"
    return peer


def serve(t, server, address, options=()):
    """A disk whose layer connects to the server; through lost connections and workers."""
    disk = t.soft_disk(f"{build(t)} to={address} | null size=1M", options=options)

    def state():
        return disk.do_json("connects", "state")

    greeted(server).close()
    greeted(server).close()
    peer = greeted(server)
    wait_for("the attempt elsewhere to be refused",
             lambda: state()["elsewhere"] == "Operation not permitted")
    t.equal((int(state()["made"]), state()["last"]), (3, "connected"))
    return disk, state, peer


@limit(60)
def test_unix(t):
    """A worker without file system and network; its successor after a kill; a server that went away."""
    path = t.folder / "server.sock"
    server = t.use(socket.socket(socket.AF_UNIX))
    server.bind(str(path))
    server.listen(8)
    disk, state, peer = serve(t, server, f"unix:{path}")
    disk.kill_worker()
    peer.settimeout(120)
    t.equal(peer.recv(1), b"", "what comes from the dead")
    peer = greeted(server)
    wait_for("the successor", lambda: int(state()["made"]) == 1)
    server.close()
    path.unlink()
    peer.close()
    wait_for("attempts to fail", lambda: int(state()["failed"]) > 2)
    t.equal(state()["last"], "No such file or directory")
    server = t.use(socket.socket(socket.AF_UNIX))
    server.bind(str(path))
    server.listen(8)
    greeted(server)
    t.equal(disk.stop(), 0, "exit status")


@limit(60)
def test_tcp(t):
    """By name, over TCP, which a worker's own namespace does not have."""
    server = t.use(socket.create_server(("127.0.0.1", 0)))
    disk, _, _ = serve(t, server, f"tcp:localhost:{server.getsockname()[1]}")
    t.equal(disk.stop(), 0, "exit status")


@limit(60)
def test_single(t):
    """One process for all does it itself."""
    server = t.use(socket.create_server(("127.0.0.1", 0)))
    disk, _, _ = serve(t, server, f"tcp:127.0.0.1:{server.getsockname()[1]}", ("--single",))
    t.equal(disk.stop(), 0, "exit status")
