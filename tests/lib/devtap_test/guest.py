"""A QEMU guest whose disks are vhost-user-blk back ends."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from . import paths
from .process import PATIENCE, Process
from .qmp import Qmp, QmpError
from .shell import SerialPort, Shell


@dataclasses.dataclass
class Disk:
    """One vhost-user-blk disk; None leaves QEMU's (or the guest's) default."""
    socket: str
    queues: int | None = None
    queue_size: int | None = None
    packed: bool | None = None
    event_idx: bool | None = None
    config_wce: bool | None = None
    bootindex: int | None = None
    reconnect: int | None = None
    extra: str = ""

    def arguments(self, number, defaults):
        """QEMU's options for the disk, `defaults` standing in for what is None."""
        def value(name):
            own = getattr(self, name)
            return defaults.get(name) if own is None else own

        chardev = f"socket,id=chr{number},path={self.socket}"
        if value("reconnect"):
            chardev += f",reconnect={value('reconnect')}"
        device = f"vhost-user-blk-pci,id=disk{number},chardev=chr{number}"
        for name, option in (("queues", "num-queues"), ("queue_size", "queue-size"),
                             ("bootindex", "bootindex")):
            if value(name) is not None:
                device += f",{option}={value(name)}"
        for name, option in (("packed", "packed"), ("event_idx", "event_idx"),
                             ("config_wce", "config-wce")):
            if value(name) is not None:
                device += f",{option}={'on' if value(name) else 'off'}"
        if self.extra:
            device += "," + self.extra
        return ["-chardev", chardev, "-device", device]


class Guest:
    """Starts QEMU, waits for a shell, and ends QEMU with the `with` block.

    disks: socket paths or Disk objects; the first is /dev/vda.
    root: "initramfs" (busybox), "testroot" (Debian's tools in a RAM root), "image"
        (firmware boots the first disk), or None (nothing is booted by us and no
        shell is awaited: use .console).
    firmware: None (SeaBIOS) or "ovmf".
    folder: where sockets and logs go; if not given, one is made, and removed unless
        the `with` block failed, when its name is printed.
    extra: more arguments for QEMU. before: those that must stand before the disks. append: more of the kernel's command line.
    wait: False: return as soon as the guest runs; call .wait_for_shell() later.
    incoming: True: a guest that waits for another of the same machine; see migration.py.
    """

    def __init__(self, disks=(), queues=1, packed=False, smp=1, mem="512M", reconnect=None,
                 root="testroot", extra=(), before=(), folder=None, firmware=None, boot_timeout=4 * PATIENCE,
                 append="", name="guest", wait=True, incoming=False):
        self.own_folder = folder is None
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="dt-guest-"))
        self.name = name
        self.root = root
        self.console = self.control = self.shell = self.qmp = self.process = None
        self.started = self.boot_seconds = 0.0
        defaults = {"queues": queues, "packed": packed, "reconnect": reconnect}
        argv = self._machine(smp, mem, firmware) + self._boot(root, append)
        argv += [str(arg) for arg in before]
        for number, disk in enumerate(disks):
            disk = disk if isinstance(disk, Disk) else Disk(str(disk))
            if root == "image" and number == 0 and disk.bootindex is None:
                disk = dataclasses.replace(disk, bootindex=0)
            argv += disk.arguments(number, defaults)
        if incoming:
            argv += ["-incoming", "defer"]
        try:
            self._start(argv + [str(arg) for arg in extra])
            if wait and not incoming:
                self.wait_for_shell(boot_timeout)
        except BaseException:
            self.close()
            raise

    def _path(self, suffix):
        return str(self.folder / f"{self.name}-{suffix}")

    def _machine(self, smp, mem, firmware):
        accel = paths.accelerator()
        argv = ["qemu-system-x86_64", "-name", self.name, "-nodefaults", "-no-user-config",
                "-display", "none", "-no-reboot", "-S",
                "-machine", f"q35,accel={accel},memory-backend=mem,vmport=off,i8042=off",
                "-cpu", "host" if accel == "kvm" else "qemu64",
                "-smp", str(smp), "-m", str(mem),
                "-object", f"memory-backend-memfd,id=mem,size={mem},share=on",
                "-device", "virtio-rng-pci",
                "-qmp", f"unix:{self._path('qmp')},server=on,wait=off"]
        for port in ("console", "control"):
            argv += ["-chardev", f"socket,id={port},path={self._path(port)},server=on,wait=off,"
                     f"logfile={self._path(port + '.log')},logappend=on",
                     "-serial", f"chardev:{port}"]
        if firmware == "ovmf":
            argv += ["-drive", "if=pflash,format=raw,readonly=on,"
                     "file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                     "-drive", f"if=pflash,format=raw,file={self._variables()}"]
        return argv

    def _variables(self):
        """A private copy of OVMF's variable store."""
        copy = pathlib.Path(self._path("vars.fd"))
        copy.write_bytes(pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes())
        return copy

    @staticmethod
    def _boot(root, append):
        if root not in ("initramfs", "testroot"):
            return []
        line = ("console=ttyS0 quiet loglevel=5 panic=-1 no_timer_check mitigations=off cryptomgr.notests "
                f"{append}").strip()
        return ["-kernel", paths.image("kernel") / "vmlinux", "-initrd", paths.image(root),
                "-append", line]

    def _start(self, argv):
        self.process = Process(argv, self.folder, name=f"{self.name}-qemu",
                               ready_socket=self._path("qmp"))
        self.qmp = Qmp(self._path("qmp"))
        self.console = SerialPort(self._path("console"))
        self.control = SerialPort(self._path("control"))
        self.qmp.command("cont")
        self.started = time.monotonic()

    def wait_for_shell(self, timeout=4 * PATIENCE):
        """Waits until commands can be run; .boot_seconds then says how long it took."""
        if self.root in ("initramfs", "testroot"):
            self.console.expect("devtap-guest: ready", timeout)
            self.control.expect("devtap-guest: shell", PATIENCE)
            self.shell = Shell(self.control)
            self.shell.sync()
        elif self.root == "image":
            self._log_in(timeout)
        self.boot_seconds = time.monotonic() - self.started

    def _log_in(self, timeout):
        """Waits until the image's console has logged root in, and drives that shell."""
        self.console.expect(r"root@[^\n]*# ?$", timeout)
        self.shell = Shell(self.console)
        self.shell.sync()
        self.shell.check("dmesg -n 1; PS1=; bind 'set enable-bracketed-paste off' || true")

    def run(self, command, timeout=2 * PATIENCE):
        """Runs a shell command in the guest; returns (exit status, output)."""
        return self.shell.run(command, timeout)

    def check(self, command, timeout=2 * PATIENCE):
        """Runs a shell command that must succeed; returns its output."""
        return self.shell.check(command, timeout)

    def power_off(self, timeout=2 * PATIENCE):
        """Shuts the guest down as its user would, and waits until QEMU has ended."""
        command = "sync; poweroff -f" if self.root != "image" else "systemctl poweroff"
        self.shell.port.send(command + "\n")
        return self.process.child.wait(timeout)

    def close(self):
        """Ends QEMU: politely if it answers, else by force."""
        if self.qmp:
            try:
                self.qmp.sock.settimeout(2.0)
                self.qmp.command("quit")
                self.process.child.wait(5.0)
            except (OSError, ValueError, QmpError, subprocess.TimeoutExpired):
                pass
        if self.process:
            self.process.kill()
        for port in (self.console, self.control):
            if port:
                port.close()
        for suffix in ("qmp", "console", "control"):
            try:
                os.unlink(self._path(suffix))
            except FileNotFoundError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close()
        if self.own_folder and kind is None:
            shutil.rmtree(self.folder)
        elif self.own_folder:
            print(f"{self.name}: the logs are in {self.folder}", file=sys.stderr)
