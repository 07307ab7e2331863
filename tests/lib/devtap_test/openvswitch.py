"""Open vSwitch with DPDK as plain processes: a database and sockets of its own, no service, no huge pages, no kernel module."""

import os
import shutil
import subprocess

from .case import Skip
from .process import Process, wait_for

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


def find():
    """The program that has DPDK in it."""
    program = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
    if not os.path.exists(program) or not shutil.which("ovsdb-server"):
        raise Skip("no Open vSwitch with DPDK (scripts/deps test)")
    return program


class OpenVSwitch:
    """A bridge br0, which is a TAP interface too; port() adds vhost-user ports. A context.

    prefix: words before the commands, such as a namespace's enter. core: for its polling thread.
    """

    def __init__(self, folder, prefix=(), core=1):
        self.program, self.folder, self.prefix, self.core = find(), folder, prefix, core
        self.ports = []
        self.remote = f"unix:{folder}/db.sock"
        self.environment = dict(os.environ, **{f"OVS_{name}": str(folder)
                                               for name in ("RUNDIR", "LOGDIR", "DBDIR", "SYSCONFDIR")})
        subprocess.run(["ovsdb-tool", "create", f"{folder}/conf.db", SCHEMA], check=True, env=self.environment)
        self.database = Process(["ovsdb-server", f"{folder}/conf.db", f"--remote=p{self.remote}",
                                 f"--unixctl={folder}/ovsdb.ctl"], folder, env=self.environment,
                                ready_socket=f"{folder}/db.sock")
        self.ctl("--no-wait", "init")
        # What it adds by itself contradicts --no-huge, unless --legacy-mem is there; memory for all ports would be 800 MB.
        self.ctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:dpdk-init=true", "other_config:per-port-memory=true",
                 f"other_config:dpdk-extra=--no-huge --legacy-mem -m 512 --no-pci --file-prefix=ovs{os.getpid()}",
                 "other_config:dpdk-lcore-mask=1", f"other_config:pmd-cpu-mask={1 << core:x}")
        self.daemon = self._start()
        self.ctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")

    def _start(self):
        return Process([*self.prefix, self.program, self.remote, f"--unixctl={self.folder}/vs.ctl", "--disable-system"],
                       self.folder, name="ovs-vswitchd", env=self.environment)

    def ctl(self, *words):
        """ovs-vsctl; returns what it says."""
        return subprocess.run(["ovs-vsctl", "--timeout=120", f"--db={self.remote}", *words], check=True, text=True,
                              stdout=subprocess.PIPE, env=self.environment).stdout

    def port(self, name):
        """A vhost-user port that listens; returns its socket."""
        path = os.path.join(self.folder, name)
        self.ctl("add-port", "br0", name, "--", "set", "Interface", name, "type=dpdkvhostuser")
        wait_for("the port's socket", lambda: os.path.exists(path))
        self.ports.append(path)
        return path

    def client_port(self, name, path):
        """A vhost-user port that connects to whoever listens at `path`."""
        self.ctl("add-port", "br0", name, "--", "set", "Interface", name, "type=dpdkvhostuserclient",
                 f"options:vhost-server-path={path}")

    def flows(self, *flows):
        """These OpenFlow rules alone, instead of a learning switch."""
        for words in (["del-flows"], *(["add-flow", flow] for flow in flows)):
            subprocess.run(["ovs-ofctl", words[0], f"unix:{self.folder}/br0.mgmt", *words[1:]], check=True,
                           env=self.environment)

    def restart(self):
        """Another process, with the same ports; it binds no socket that is left of the one before."""
        self.daemon.kill()
        for path in self.ports:
            os.unlink(path)
        self.daemon = self._start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.daemon.stop()
        self.database.stop()
