"""The command line: every verb explained, every error one clear line, nothing left behind."""

import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import time

from devtap_test import SoftDisk, StorageDaemon
from devtap_test.paths import SOURCE
from devtap_test.process import Process, catches, wait_for

MIB = 1 << 20


def devtap(t, *arguments, timeout=120, **options):
    """Runs the tool with a runtime directory of the test's own; returns what came of it."""
    environment = dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder), **options.pop("env", {}))
    return subprocess.run([SoftDisk.binary(), *map(str, arguments)], env=environment, text=True,
                          capture_output=True, timeout=timeout, check=False, **options)


def refused(t, status, words, *arguments, **options):
    """The tool must end with `status`, one line on stderr that holds `words`, and no traces."""
    before = set(os.listdir(t.folder))
    done = devtap(t, *arguments, **options)
    said = done.stderr.strip()
    t.log(arguments, "->", done.returncode, said)
    assert len(said.splitlines()) == 1, f"not one line: {done.stderr!r}"
    assert words in said, f"'{words}' is not in: {said}"
    t.equal(done.returncode, status, f"exit status of {arguments}: {said}")
    t.equal(set(os.listdir(t.folder)), before, f"files after {arguments}")


def verbs(t):
    """All verbs that the program has."""
    return [line.split()[0] for line in devtap(t, "--completion-data").stdout.splitlines()]


def verb_options(t, verb):
    """All options that `devtap VERB --help` lists."""
    return re.findall(r"^  --([a-z-]+)", devtap(t, verb, "--help").stdout, re.M)


# ---- Help -----------------------------------------------------------------------------------

def test_help(t):
    """Every verb answers --help, and stands in the tool's own."""
    overview = devtap(t, "--help").stdout
    for verb in verbs(t):
        done = devtap(t, verb, "--help")
        t.equal(done.returncode, 0, f"{verb} --help")
        assert done.stdout.startswith(f"usage: devtap {verb}"), done.stdout
        assert re.search(rf"^  {verb} ", overview, re.M), f"{verb} is not in devtap --help"
        assert max(map(len, done.stdout.splitlines())) <= 110, f"{verb} --help has long lines"


def test_manual_pages(t):
    """Every verb has a page; every option stands in it, and no other."""
    for verb in verbs(t):
        page = (SOURCE / f"man/devtap-{verb}.1.scd").read_text().partition("\n# MANAGEMENT SOFTWARE")[0]
        usage = devtap(t, verb, "--help").stdout.partition("\n\n")[0]
        options = set(verb_options(t, verb))
        for option in options - ({"chain"} if verb == "run" else set()):  # an argument there
            assert f"*--{option}*" in page, f"devtap-{verb}(1) does not explain --{option}"
        synopsis = re.findall(rf"^\*devtap {verb}\W.*", page, re.M)
        assert synopsis, f"devtap-{verb}(1) has no synopsis"
        named = {name for line in synopsis for name in re.findall(r"\*--([a-z-]+)\*", line)}
        named |= set(re.findall(r"^\*--([a-z-]+)\*", page, re.M)) | set(re.findall(r"--([a-z-]+)", usage))
        t.equal(named - options, set(), f"options of {verb} that do not exist")
    config = (SOURCE / "man/devtap.conf.5.scd").read_text()
    for option in set(verb_options(t, "run")) - {"config", "foreground", "print-capabilities",
                                                 "disk", "net"}:
        assert f"*{option}*" in config, f"devtap.conf(5) does not name {option}"


def test_extension_help(t):
    """What is listed can be explained, in both forms."""
    listed = json.loads(devtap(t, "extensions", "--json").stdout)
    assert {"trace", "throttle", "file", "null"} <= {e["name"] for e in listed}
    for extension in listed:
        name = ["--net", extension["name"]] if extension["class"] == "net" else [extension["name"]]
        text = devtap(t, "help", *name)
        t.equal(text.returncode, 0, extension["name"])
        for parameter in extension["parameters"]:
            assert f"  {parameter['name']}=" in text.stdout, parameter["name"]
        assert json.loads(devtap(t, "help", "--json", *name).stdout) == extension


def test_completion(t):
    """The shell completes verbs, options and devices."""
    tool = pathlib.Path(SoftDisk.binary())
    t.soft_disk("null size=1M", disk="some-disk")

    def complete(*words):
        script = (f"PATH={tool.parent}:$PATH; source {SOURCE}/completions/devtap; "
                  f"COMP_WORDS=({' '.join(repr(w) for w in words)}); "
                  f"COMP_CWORD={len(words) - 1}; _devtap; echo ${{COMPREPLY[@]}}")
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True,
                              env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder))).stdout.split()

    t.equal(complete("devtap", "st"), ["stats"])
    t.equal(complete("devtap", "stats", "--int"), ["--interval"])
    t.equal(complete("devtap", "bench", "--rw", "randw"), ["randwrite"])
    t.equal(complete("devtap", "show", "some"), ["some-disk"])
    t.equal(complete("devtap", "help", "throt"), ["throttle"])
    for page in (SOURCE / "man").glob("devtap-*.1.scd"):
        for verb, word in re.findall(r"^\*devtap ([a-z-]+)\*? \*?([a-z][a-z-]*)\*", page.read_text(), re.M):
            t.equal(complete("devtap", verb, word), [word], verb)
    t.equal(complete("devtap", "mode", "some-disk", "interc"), ["intercept"])
    t.equal(complete("devtap", "set", "some-disk", ""), ["null"])
    t.equal(complete("devtap", "switch", "remove-port", "some"), ["some-disk"])
    t.equal(complete("devtap", "set", "some-disk", "throttle", "io"), ["iops="])
    t.equal(complete("devtap", "test", "--property", "qui"), ["quiesce"])


# ---- Errors ---------------------------------------------------------------------------------

def test_usage_errors(t):
    """A wrong command line is status 2, and says what would be right."""
    t.equal(devtap(t).returncode, 2, "no verb")
    refused(t, 2, "did you mean 'stats'", "stat")
    refused(t, 2, "did you mean '--json'", "list", "--jsno")
    refused(t, 2, "needs a value", "bench", "--socket")
    refused(t, 2, "--socket is missing", "bench")
    refused(t, 2, "too small", "bench", "--socket", "x", "--depth=0")
    refused(t, 2, "multiple of 512", "bench", "--socket", "x", "--size=1000")
    refused(t, 2, "mode that writes", "bench", "--socket", "x", "--verify", "--rw=read")
    refused(t, 2, "not a list of processors", "bench", "--socket", "x", "--cpu=a")
    refused(t, 2, "usage: devtap show", "show")
    refused(t, 2, "PARAMETER=VALUE", "set", "a", "b", "c")
    refused(t, 2, "not a size", "resize", "a", "huge")
    refused(t, 2, "--start", "map", "--start", "x", "a")
    refused(t, 2, "print, summary, replay or to-fio", "trace", "show", "x")


def test_run_errors(t):
    """What is wrong with a disk is said before anything runs."""
    def run(*words):
        return "run", "--disk", "vm1", "--socket", t.folder / "s.sock", *words

    image = t.sparse_file(MIB)
    refused(t, 2, "no disk", "run")
    refused(t, 2, "it has no chain", *run())
    refused(t, 2, "it has no socket", "run", "--disk", "vm1", "null size=1M")
    refused(t, 2, "quote a chain as one word", *run("null", "size=1M"))
    refused(t, 2, "chain, column", *run("null size=1M |"))
    refused(t, 2, "did you mean 'size'", *run("null sise=1M"))
    refused(t, 2, "not a size", *run("null size=big"))
    refused(t, 2, "not an octal mode", *run("--socket-mode=rw", "null size=1M"))
    refused(t, 2, "no user is named", *run("--socket-owner=no-such-user", "null size=1M"))
    refused(t, 2, "longer than 20 bytes", *run("--serial=" + 21 * "x", "null size=1M"))
    refused(t, 2, "is not a Unix stream socket", "run", "--disk", "a", "--fd=0", "null size=1M",
            stdin=subprocess.DEVNULL)
    refused(t, 2, "may hold letters", "run", "--disk", "a b", "--socket", t.folder / "s",
            "null size=1M")
    refused(t, 3, "did you mean 'throttle'", *run("trottle iops=1 | null size=1M"))
    refused(t, 3, "missing.img", *run(f"file path={t.folder}/missing.img"))
    refused(t, 2, "is a directory", *run(f"file path={t.folder}"))
    odd = t.sparse_file(1000, "odd.img")
    refused(t, 2, "odd.img: its size, 1000 bytes, is not a multiple of 512", *run(f"file path={odd}"))
    refused(t, 2, "empty.img is empty", *run(f"file path={t.sparse_file(0, 'empty.img')}"))
    refused(t, 2, "block-size", *run(f"file path={image} block-size=1000"))
    refused(t, 2, "not one of hold, fail", *run(f"file path={image} on-full=never"))
    refused(t, 3, "missing.so", *run(f"{t.folder}/missing.so | null size=1M"))
    refused(t, 3, "no/such", "run", "--disk", "a", "--socket", t.folder / "no/such/s.sock",
            "null size=1M")
    refused(t, 1, "not a socket", "run", "--disk", "a", "--socket", image, "null size=1M")
    assert image.exists(), "a file was taken for a stale socket"


def test_config_errors(t):
    """Errors in a configuration file name the line."""
    config = t.folder / "devtap.conf"

    def refused_with(status, words, text):
        config.write_text(text)
        refused(t, status, words, "run", "--config", config)

    refused(t, 3, "nowhere.conf", "run", "--config", t.folder / "nowhere.conf")
    refused_with(2, f"{config}:2: 'thread' is no key of the process; did you mean 'threads'?",
                 "# comment\nthread = 2\n")
    refused_with(2, f"{config}:1: disk a", "[disk a]\nsocket=/x\n")
    refused_with(2, f"{config}:3: ", "threads = 1\n[disk a]\nqueues = many\n")
    refused_with(3, f"{config}:1: a: ", f"[disk a]\nsocket = {t.folder}/a.sock\nchain = nul size=1M\n")


def test_device_errors(t):
    """No such device, layer, parameter, command."""
    refused(t, 3, "no running device is named 'vm1'", "show", "vm1")
    t.soft_disk("throttle iops=100 | null size=1M")
    for verb in ("show", "stats"):
        refused(t, 3, "did you mean 'vm1'", verb, "vm2")
    refused(t, 3, "no layer 'throtle'", "set", "vm1", "throtle", "iops=1")
    refused(t, 2, "not a number", "set", "vm1", "throttle", "iops=many")
    refused(t, 2, "no parameter 'ipos'", "set", "vm1", "throttle", "ipos=1")
    refused(t, 2, "cannot be changed while the device runs", "set", "vm1", "null", "size=2M")
    refused(t, 2, "no verb 'jump'", "do", "vm1", "null", "jump")
    refused(t, 2, "no verb 'resize'", "resize", "vm1", "2M")
    refused(t, 3, "no extension or back is named", "help", "nothing")
    refused(t, 3, "nowhere", "trace", "print", t.folder / "nowhere")
    refused(t, 3, "nowhere", "bench", "--socket", t.folder / "nowhere")


def test_in_use(t):
    """A served socket and a locked image are status 4, and stay as they are."""
    image = t.sparse_file(MIB)
    disk = t.soft_disk(f"file path={image}")
    refused(t, 4, "socket in use", "run", "--disk", "b", "--socket", disk.socket, "null size=1M")
    refused(t, 4, str(image), "run", "--disk", "b", "--socket", t.folder / "b.sock",
            f"file path={image}")
    assert disk.running()
    t.equal(devtap(t, "bench", "--socket", disk.socket, "--time=50ms").returncode, 0, "afterwards")


def test_locked_by_qemu(t):
    """An image that QEMU writes is refused."""
    image = t.sparse_file(MIB)
    t.use(StorageDaemon(image, t.folder))
    refused(t, 4, str(image), "run", "--disk", "b", "--socket", t.folder / "b.sock",
            f"file path={image}")


def test_not_permitted(t):
    """What another user may not open is status 5."""
    if os.geteuid() != 0:
        t.skip("needs root, to become another user")
    image = t.sparse_file(MIB)
    image.chmod(0o600)
    for folder in (t.folder, t.folder.parent):
        folder.chmod(0o777)
    refused(t, 5, "no permission", "run", "--disk", "b", "--socket", t.folder / "b.sock",
            f"file path={image}", user=65534)


# ---- Running --------------------------------------------------------------------------------

def test_verbs_on_a_running_disk(t):
    """list, show, stats, set, do on a real process."""
    disk = t.soft_disk(f"throttle iops=5000 | file path={t.sparse_file(MIB)}")
    listed = json.loads(devtap(t, "list", "--json").stdout)
    t.equal([(d["name"], d["pid"], d["bytes"], d["attached"], d["chain"]) for d in listed],
            [("vm1", disk.pid, MIB, False, ["throttle", "file"])])
    assert re.search(r"^vm1 .* 1M .*throttle \| file$", devtap(t, "list").stdout, re.M)
    t.equal(devtap(t, "set", "vm1", "throttle", "iops=7k", "bps=1M").returncode, 0)
    shown = json.loads(devtap(t, "show", f"{disk.pid}/vm1", "--json").stdout)
    t.equal(shown["chain"][0]["parameters"]["iops"], "7000")
    assert "iops = 7000" in devtap(t, "show", "vm1").stdout
    t.equal(devtap(t, "resize", "vm1", "2M").returncode, 0)
    wait_for("the new size", lambda: " 2M " in devtap(t, "list").stdout)
    t.equal(json.loads(devtap(t, "map", "vm1", "--totals", "--json").stdout)["size"], 2 * MIB)
    refused(t, 2, "behind the end of vm1", "map", "vm1", "--start=3M")
    refused(t, 3, "no running device is named 'vm2'", "map", "vm2")
    t.equal(devtap(t, "bench", "--socket", disk.socket, "--time=100ms").returncode, 0)
    t.equal(disk.stats()["file"]["ops"]["read"]["requests"] > 0, True, "reads counted")
    assert re.search(r"^file +read +\d+", devtap(t, "stats", "vm1").stdout, re.M)
    live = devtap(t, "stats", "vm1", "--live", "--interval=100ms", "--count=2").stdout
    t.equal(live.count("LAYER"), 2, "tables of --live")
    lines = devtap(t, "stats", "vm1", "--live", "--interval=100ms", "--count=2", "--json").stdout
    t.equal([json.loads(line)["name"] for line in lines.splitlines()], ["vm1", "vm1"])


def test_several_processes(t):
    """One name in two processes must be told apart; stale control sockets are removed."""
    a = t.soft_disk("null size=1M")
    b = t.soft_disk("null size=2M")
    refused(t, 2, "/vm1", "show", "vm1")
    refused(t, 2, "PID/NAME", "show", "x/vm1")
    t.equal(json.loads(devtap(t, "show", f"{b.pid}/vm1", "--json").stdout)["disk"]["bytes"],
            2 * MIB)
    b.kill()
    t.equal(json.loads(devtap(t, "show", "vm1", "--json").stdout)["pid"], a.pid)
    assert not (t.folder / f"{b.pid}.sock").exists(), "a stale control socket was left"


def test_stop(t):
    """SIGTERM ends in good order: status 0, no sockets left, no image locked."""
    disk = t.soft_disk(f"file path={t.sparse_file(MIB)}")
    t.equal(disk.stop(), 0, "exit status")
    t.equal([p for p in os.listdir(t.folder) if "sock" in p], [], "sockets")


def test_second_signal(t):
    """A second signal ends at once what the first one waits for."""
    disk = t.soft_disk("delay time=1h | null size=1M")
    bench = t.use(Process([disk.binary(), "bench", "--socket", disk.socket, "--time=60s"],
                          t.folder, name="bench"))
    wait_for("the load", lambda: disk.stats()["delay"]["holding"] > 0)
    bench.kill()
    disk.child.send_signal(signal.SIGTERM)
    wait_for("the first signal", lambda: "stopping" in disk.output())
    disk.child.send_signal(signal.SIGTERM)
    disk.child.wait(120)


def test_config_file(t):
    """Two disks on three threads, from a file; the command line wins."""
    config = t.folder / "devtap.conf"
    config.write_text(f"""# a comment
threads = 1

[disk a]
socket = {t.folder}/a.sock
socket-mode = 0660
chain = throttle iops=5000
   # | error ops=read
      | null size=1M

[disk b]
socket = {t.folder}/b.sock
threads-per-disk = 2
chain = null size=2M
""")
    t.use(Process([SoftDisk.binary(), "run", "--threads=3", "--config", config], t.folder,
                  ready_line="devtap: ready", env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder))))
    listed = {d["name"]: d["chain"] for d in json.loads(devtap(t, "list", "--json").stdout)}
    t.equal(listed, {"a": ["throttle", "null"], "b": ["null"]})
    t.equal(json.loads(devtap(t, "show", "b", "--json").stdout)["threads"], 2, "threads")
    t.equal(stat.S_IMODE(os.stat(t.folder / "a.sock").st_mode), 0o660, "mode of a")
    t.equal(stat.S_IMODE(os.stat(t.folder / "b.sock").st_mode), 0o600, "mode of b")
    for name in "ab":
        done = devtap(t, "bench", "--socket", t.folder / f"{name}.sock", "--time=100ms",
                      "--queues=4", "--threads=2")
        t.equal(done.returncode, 0, done.stderr)


def listening(path):
    """A listening Unix socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(1)
    return sock


def test_activation_and_notification(t):
    """systemd's sockets are taken by name, and it is told of the start and the end."""
    messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    messages.bind(str(t.folder / "notify"))
    messages.settimeout(120)
    other, sock = listening(t.folder / "other.sock"), listening(t.folder / "vm1.sock")

    def to_places():
        high = [os.dup(s.fileno()) for s in (other, sock)]
        for place, fd in zip((3, 4), high):
            os.dup2(fd, place, inheritable=True)

    command = 'LISTEN_PID=$$ exec "$0" run --disk vm1 "null size=1M"'
    child = subprocess.Popen(["sh", "-c", command, SoftDisk.binary()], preexec_fn=to_places,
                             close_fds=False, env=dict(
                                 os.environ, LISTEN_FDS="2", LISTEN_FDNAMES="other:vm1",
                                 NOTIFY_SOCKET=str(t.folder / "notify"),
                                 DEVTAP_RUNTIME_DIR=str(t.folder)))
    try:
        t.equal(messages.recv(100), b"READY=1")
        other.close()
        sock.close()
        t.equal(devtap(t, "bench", "--socket", t.folder / "vm1.sock", "--time=50ms").returncode, 0)
        child.terminate()
        t.equal(messages.recv(100), b"STOPPING=1")
        t.equal(child.wait(120), 0, "exit status")
    finally:
        child.kill()


def test_vhost_user_conventions(t):
    """QEMU's conventions for back-end programs, under the name the manifest gives."""
    program = t.folder / "devtap-vhost-user-blk"
    program.symlink_to(SoftDisk.binary())
    said = subprocess.run([program, "--print-capabilities"], capture_output=True, text=True,
                          check=True).stdout
    t.equal(json.loads(said), {"type": "block", "features": ["read-only", "blk-file"]})
    image = t.sparse_file(MIB, "it's.img")
    sock = listening(t.folder / "s.sock")
    os.set_inheritable(sock.fileno(), True)
    child = subprocess.Popen([program, f"--fd={sock.fileno()}", f"--blk-file={image}", "--read-only"],
                             close_fds=False, env=dict(os.environ, DEVTAP_RUNTIME_DIR=str(t.folder)))
    try:
        sock.close()
        bench = ("bench", "--socket", t.folder / "s.sock", "--time=50ms")
        t.equal(devtap(t, *bench).returncode, 0)
        refused(t, 5, "read-only", *bench, "--rw=write")
    finally:
        child.terminate()
        child.wait(120)


def test_bench_finds_faults(t):
    """A back end that loses writes or fails is found out: status 6."""
    lost = t.soft_disk("null size=1M", disk="lost")
    done = devtap(t, "bench", "--socket", lost.socket, "--verify", "--min-requests=2000", "--time=200ms", "--json")
    t.equal(done.returncode, 6, done.stderr)
    assert json.loads(done.stdout)["mismatches"] > 0
    failing = t.soft_disk("error ops=read | mem size=1M", disk="failing")
    done = devtap(t, "bench", "--socket", failing.socket, "--min-requests=16", "--time=200ms", "--json")
    t.equal(done.returncode, 6, done.stderr)
    assert json.loads(done.stdout)["errors"] > 0
    assert "status 1" in done.stderr, done.stderr
    for ring in ((), ("--packed",), ("--event-idx", "--sleep"), ("--packed", "--event-idx")):
        good = t.soft_disk("mem size=4M", disk="good" + "".join(ring))
        done = devtap(t, "bench", "--socket", good.socket, "--verify", "--min-requests=1000", "--time=200ms", *ring)
        t.equal(done.returncode, 0, done.stderr)
        good.stop()


def test_bench_min_requests(t):
    """So many are done, though the time is over or somebody asks for the end; a second signal ends it all the same."""
    disk = t.soft_disk("throttle iops=100 burst=10ms | null size=1M")
    result = disk.bench("--time", "10ms", "--depth", "4", "--min-requests", "50")
    assert result["requests"] >= 50 and result["seconds"] > 0.2, result
    t.equal(disk.bench("--time", "10ms", "--depth", "4")["errors"], 0)
    child = subprocess.Popen([disk.binary(), "bench", "--socket", disk.socket, "--min-requests=1M", "--time=10ms"],
                             stdout=subprocess.DEVNULL)
    wait_for("the load to begin", lambda: catches(child.pid, signal.SIGTERM))
    child.terminate()
    wait_for("the signal to be noticed", lambda: not catches(child.pid, signal.SIGTERM))
    time.sleep(0.3)
    t.equal(child.poll(), None, "it has ended")
    child.terminate()
    t.equal(child.wait(120), -signal.SIGTERM, "exit status")


def test_bench_flush(t):
    """Each write of --flush is followed by a flush, but for those that the end came upon."""
    disk = t.soft_disk(f"trace out={t.folder}/trace | mem size=1M")
    disk.bench("--rw", "randwrite", "--flush", "--depth", "4", "--time", "100ms", "--min-requests", "50")
    writes, flushes = (disk.operations("trace", name) for name in ("write", "flush"))
    assert 0 <= writes - flushes <= 4 < writes, f"{writes} writes, {flushes} flushes"


def test_hostile_control_client(t):
    """Nonsense on the control socket costs its sender the connection, and nobody anything."""
    disk = t.soft_disk("null size=1M")
    for nonsense in (b"\n", b"[[[[[[[[[[[[[[[[\n", b"x" * 70000, b"\0\n", b'{"verb": "list"'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(120)
            sock.connect(str(t.folder / f"{disk.pid}.sock"))
            sock.sendall(nonsense)
            sock.shutdown(socket.SHUT_WR)
            reply = b""
            try:
                while chunk := sock.recv(4096):
                    reply += chunk
            except ConnectionResetError:
                pass
            assert b'"ok":true' not in reply, reply
    idle = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(40)]
    for sock in idle:
        sock.connect(str(t.folder / f"{disk.pid}.sock"))
    for sock in idle:
        sock.close()
    time.sleep(0.1)
    t.equal(devtap(t, "show", "vm1").returncode, 0, "afterwards")
