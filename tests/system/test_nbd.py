"""The back `nbd` on real servers: killed, away for long, qcow2 behind qemu-storage-daemon, TLS."""

import os
import signal
import socket
import subprocess
import time

from devtap_test import Disk, wait_for
from devtap_test.case import limit
from devtap_test.load import VerifiedLoad, file_system, kernel_errors
from devtap_test.process import Process, free_socket_path
from devtap_test.softdisk import SoftDisk

MIB = 1 << 20
AWAY = 60.0  # seconds: what the restart of a server's host takes


class Server(Process):
    """nbdkit on a Unix socket, which .restart() serves again after .kill()."""

    def __init__(self, folder, *arguments, name="nbdkit"):
        self.socket = free_socket_path(folder, f"{name}.nbd")
        self.arguments = ["nbdkit", "-f", "-U", self.socket, *map(str, arguments)]
        super().__init__(self.arguments, folder, name=name, ready_socket=self.socket)
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def restart(self):
        """Serves the same again."""
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        super().__init__(self.arguments, self.folder, name=self.name, ready_socket=self.socket)


def file_server(t, *options, parameters=()):
    """A server of a file, whose content outlives it."""
    return t.use(Server(t.folder, *options, "file", t.sparse_file(64 * MIB), *parameters))


def slow_server(t):
    """The same with latency, so that requests are under way at any moment."""
    return file_server(t, "--filter=delay", parameters=["rdelay=5ms", "wdelay=5ms"])


def in_flight(guest):
    """Requests that the guest's kernel waits for."""
    return sum(map(int, guest.check("cat /sys/block/vda/inflight").split()))


@limit(300)
def test_server_killed(t):
    """kill -9 of the server under verified load; the worker is confined."""
    server = slow_server(t)
    disk = t.soft_disk(f"nbd uri={server.uri}")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    for number in range(1, 6):
        load.goes_on()
        server.child.send_signal(signal.SIGSTOP)
        wait_for("requests that wait for it", lambda: in_flight(guest) > 0)
        server.kill()
        time.sleep(0.2)
        server.restart()
        load.check(f"after {number} kills")
    load.goes_on()
    passes = load.finish()
    t.equal(kernel_errors(guest), "")
    resent = disk.stats()["nbd"]["counters"]["resent"]
    assert resent > 0, "nothing was under way at any kill"
    t.log(f"{passes} passes of fio, {resent} requests sent again")


def without_server(disk, times):
    """Waits until so many workers have begun without a server, and served all the same."""
    wait_for("a worker without a server", lambda: len(
        [e for e in disk.events("disconnected") if "at the start" in e["text"]]) == times)
    disk.worker()


@limit(180)
def test_worker_killed(t):
    """kill -9 of workers, and of the server between, under verified load; once it is away for longer than a
    worker's start waits for it, and a worker that serves without it dies, too."""
    server = slow_server(t)
    disk = t.soft_disk(f"nbd uri={server.uri} connect-timeout=1s fence-delay=100ms")
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    for number in range(1, 11):
        load.goes_on()
        if number == 6:
            server.kill()  # before the worker: its successor is to find none, however fast it is
        disk.kill_worker()
        if number % 3 == 0:
            server.kill()
            if number == 6:
                without_server(disk, 1)
                disk.kill_worker()
                without_server(disk, 2)
            server.restart()
        load.check(f"after {number} kills")
    load.goes_on()
    passes = load.finish()
    t.equal(kernel_errors(guest), "")
    t.log(f"{passes} passes of fio")


@limit(120)
def test_qcow2(t):
    """The example of devtap-nbd(7): a QCOW2 image, served by qemu-storage-daemon."""
    image, path = t.folder / "vm1.qcow2", free_socket_path(t.folder, "qsd.nbd")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "256M"], check=True)
    daemon = t.use(Process(
        ["qemu-storage-daemon",
         "--blockdev", f"driver=file,node-name=f,filename={image},discard=unmap",
         "--blockdev", "driver=qcow2,node-name=q,file=f,discard=unmap",
         "--nbd-server", f"addr.type=unix,addr.path={path},max-connections=0",
         "--export", "type=nbd,id=e,node-name=q,name=vm1,writable=on"],
        t.folder, ready_socket=path))
    disk = t.soft_disk(f"throttle iops=5000 | nbd uri=nbd+unix:///vm1?socket={path}")
    guest = t.guest([disk.socket])
    file_system(guest)
    guest.check("mkfs.ext4 -q -F /dev/vda && blkdiscard /dev/vda")
    t.equal(kernel_errors(guest), "")
    guest.power_off()
    t.equal(disk.stop(), 0, "exit status")
    t.equal(daemon.stop(), 0, "exit status of the daemon")
    subprocess.run(["qemu-img", "check", "-q", image], check=True)


def conformance(chain):
    """`devtap test` of one property; returns its output and whether it passed."""
    done = subprocess.run([SoftDisk.binary(), "test", "--property", "content", "--duration", "100ms", "--patience", "40s",
                           f"{chain} fence-delay=0s"],
                          text=True, capture_output=True, timeout=120, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def certificates(folder):
    """A CA and a server's certificate for `localhost`, as nbdkit and libnbd look for them."""
    folder.mkdir()
    templates = {"ca": "cn = Test\nca\ncert_signing_key\n",
                 "server": "cn = localhost\ndns_name = localhost\ntls_www_server\n"
                           "encryption_key\nsigning_key\n"}
    for name, text in templates.items():
        (folder / f"{name}.info").write_text(text)
        key, template = folder / f"{name}-key.pem", folder / f"{name}.info"
        subprocess.run(["certtool", "--generate-privkey", "--outfile", key], check=True,
                       capture_output=True)
        more = (["--generate-self-signed"] if name == "ca" else
                ["--generate-certificate", "--load-ca-certificate", folder / "ca-cert.pem",
                 "--load-ca-privkey", folder / "ca-key.pem"])
        subprocess.run(["certtool", *more, "--load-privkey", key, "--template", template,
                        "--outfile", folder / f"{name}-cert.pem"], check=True, capture_output=True)


def answers(port):
    """Does anybody listen there?"""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class TlsServer(Process):
    """nbdkit with certificates on a free port of the loopback interface; .restart() may bring others."""

    def __init__(self, t, pki, *arguments):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.arguments, self.test_folder = arguments, t.folder
        self.restart(pki)

    def restart(self, pki):
        """Serves the same again, with the certificates of this folder."""
        super().__init__(["nbdkit", "-f", "-i", "127.0.0.1", "-p", self.port, "--tls=require",
                          f"--tls-certificates={pki}", *self.arguments],
                         self.test_folder, name="nbdkit-tls")
        wait_for("nbdkit", lambda: answers(self.port))
        assert self.running(), self.output()


@limit(120)
def test_tls(t):
    """Certificates and shared keys; a server under another name, and a wrong key, are refused."""
    pki = t.folder / "pki"
    certificates(pki)
    port = t.use(TlsServer(t, pki, "memory", "8M")).port
    query = f"?tls-certificates={pki}"
    passed, text = conformance(f"nbd uri=nbds://localhost:{port}/{query}")
    assert passed, text
    passed, text = conformance(f"nbd uri=nbds://127.0.0.1:{port}/{query}")
    assert not passed and "tls-certificates" in text, text
    passed, text = conformance(f"nbd uri=nbd://localhost:{port}/")
    assert not passed and "if the server wants TLS, write nbds" in text, text

    local = t.use(Server(t.folder, "--tls=require", f"--tls-certificates={pki}", "memory", "8M",
                         name="local"))
    uri = f"nbd uri=nbds+unix:///?socket={local.socket}&tls-certificates={pki}"
    for more, expected in (("", True), ("&tls-hostname=localhost", True), ("&tls-hostname=x", False),
                           ("&tls-hostname=x&tls-verify-peer=false", True)):
        passed, text = conformance(uri + more)
        t.equal(passed, expected, more + text)

    keys, wrong = t.folder / "keys.psk", t.folder / "wrong.psk"
    keys.write_text(f"me:{'ab' * 16}\n")
    wrong.write_text(f"me:{'cd' * 16}\n")
    keys.chmod(0o600)
    server = t.use(Server(t.folder, "--tls=require", f"--tls-psk={keys}", "memory", "8M", name="psk"))
    uri = f"nbds+unix://me@/?socket={server.socket}&tls-psk-file="
    passed, text = conformance(f"nbd uri={uri}{keys}")
    assert passed, text
    passed, text = conformance(f"nbd uri={uri}{wrong}")
    assert not passed and "tls-psk-file" in text, text


@limit(300)
def test_tls_server_killed(t):
    """A TLS server is killed under verified load, away for a minute, and back with a certificate that nobody
    should trust: the confined worker connects anew by itself, to the good one alone."""
    good, strange = t.folder / "good", t.folder / "strange"
    certificates(good)
    certificates(strange)
    server = t.use(TlsServer(t, good, "--filter=delay", "file", t.sparse_file(64 * MIB),
                             "rdelay=5ms", "wdelay=5ms"))
    disk = t.soft_disk(f"nbd uri=nbds://localhost:{server.port}/?tls-certificates={good}")
    worker = disk.worker()
    guest = t.guest([Disk(disk.socket, queues=2)], smp=2)
    load = VerifiedLoad(guest, jobs=2)
    for number in range(1, 4):
        load.goes_on()
        server.kill()
        time.sleep(0.2)
        server.restart(good)
        load.check(f"after {number} kills")
    load.goes_on()
    t.equal(disk.events("server-useless"), [])

    server.kill()
    server.restart(strange)
    t.wait(AWAY)
    told = [event["text"] for event in disk.events("server-useless")]
    assert len(told) == 1 and "issuer is unknown" in told[0], told
    requests = load.requests()
    time.sleep(1.0)
    t.equal(load.requests(), requests, "requests answered without a server to trust")
    server.kill()
    server.restart(good)
    load.goes_on()
    passes = load.finish()
    t.equal(kernel_errors(guest), "")
    t.equal(disk.worker(), worker)
    t.log(f"{passes} passes of fio, {disk.stats()['nbd']['counters']['resent']} requests sent again")
