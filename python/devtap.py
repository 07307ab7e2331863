# SPDX-License-Identifier: MIT
"""Disk extensions of devtap, and judges of packets, written in Python.

    import devtap

    class Fault(devtap.Extension):
        '''Fail some requests.'''
        name = "fault"
        rate = devtap.Fraction("1%", live=True, help="Which part of the requests fails.")

        def request(self, req):
            if random.random() < self.rate:
                return req.complete(errno.EIO)

    devtap.run(Fault)

devtap starts the program, and again when it dies; requests that had no answer come once more,
with req.replayed set. See devtap-channel(5) and `devtap help placement`.

A program that judges packets is started by whoever wants it, and connects to a card's `queue` layer:

    class NoTelnet(devtap.PacketQueue):
        def packet(self, p):
            if p.transmit and p.data[36:38] == b"\\x00\\x17":
                p.drop()

    NoTelnet("/run/vm1.queue").run()

See devtap-net-queue(7).
"""

import ctypes
import ctypes.util
import errno
import heapq
import json
import os
import sys
import time

__all__ = ["Extension", "Request", "run", "PacketQueue", "Packet", "READ", "WRITE", "FLUSH", "DISCARD", "WRITE_ZEROES",
           "Text", "Path", "Bool", "Number", "Size", "Duration", "Fraction", "Choice", "Ops"]

READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES = range(5)
OPS = ("read", "write", "flush", "discard", "write-zeroes")
BURST = 64

# include/devtap/channel.h
_REQUEST, _RESPONSE, _SUB, _CONTROL, _END = range(1, 6)
_INIT, _START, _SET, _DO, _SAVE, _INFO, _QUIESCE, _STOP, _LOAD = range(2, 11)


class _Error(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char * 512)]


class _Event(ctypes.Structure):
    _fields_ = [("type", ctypes.c_uint32), ("id", ctypes.c_uint32), ("sector", ctypes.c_uint64),
                ("sectors", ctypes.c_uint32), ("error", ctypes.c_int32), ("op", ctypes.c_uint8),
                ("flags", ctypes.c_uint8), ("queue", ctypes.c_uint16), ("bytes", ctypes.c_uint32),
                ("data", ctypes.c_void_p), ("below", ctypes.c_void_p),
                ("control", ctypes.c_uint32), ("seq", ctypes.c_uint32),
                ("text", ctypes.c_char_p), ("fd", ctypes.c_int), ("length", ctypes.c_uint32),
                ("segment", ctypes.c_uint16), ("when", ctypes.c_uint64)]


# include/devtap/queue.h
class _Packet(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32), ("transmit", ctypes.c_bool), ("needs", ctypes.c_uint8),
                ("segment", ctypes.c_uint16), ("queue", ctypes.c_uint16),
                ("length", ctypes.c_uint32), ("captured", ctypes.c_uint32),
                ("room", ctypes.c_uint32), ("data", ctypes.c_void_p), ("when", ctypes.c_uint64)]


def _load():
    """The library: $DEVTAP_CHANNEL_LIBRARY, or as installed."""
    path = os.environ.get("DEVTAP_CHANNEL_LIBRARY")
    lib = ctypes.CDLL(path or ctypes.util.find_library("devtap-channel")
                      or "libdevtap-channel.so.1")
    channel, u8, u32, u64 = ctypes.c_void_p, ctypes.c_uint8, ctypes.c_uint32, ctypes.c_uint64
    text = ctypes.c_char_p
    for name, result, arguments in (
            ("open", ctypes.c_int, [ctypes.POINTER(channel), text, ctypes.c_int,
                                    ctypes.POINTER(_Error)]),
            ("close", None, [channel]),
            ("description", text, [channel]),
            ("read", ctypes.c_int, [channel, ctypes.POINTER(_Packet), ctypes.c_uint,
                                    ctypes.c_int]),
            ("set_verdict", ctypes.c_int, [channel, u32, ctypes.c_int, text, u32]),
            ("event", ctypes.c_int, [channel, text, text])):
        function = getattr(lib, "dt_queue_" + name)
        function.restype, function.argtypes = result, arguments
    for name, result, arguments in (
            ("open", ctypes.c_int, [ctypes.POINTER(channel), ctypes.c_int, text,
                                    ctypes.POINTER(_Error)]),
            ("poll", ctypes.c_uint, [channel, ctypes.POINTER(_Event), ctypes.c_uint]),
            ("wait", None, [channel, ctypes.c_int]),
            ("set_spin", None, [channel, u64]),
            ("forward", None, [channel, u32, u64, ctypes.c_bool]),
            ("complete", None, [channel, u32, ctypes.c_int]),
            ("sub_new", ctypes.c_int, [channel, ctypes.POINTER(ctypes.c_void_p),
                                       ctypes.POINTER(u32)]),
            ("sub_submit", ctypes.c_int, [channel, u32, u8, u8, u64, u32]),
            ("sub_free", None, [channel, u32]),
            ("answer", ctypes.c_int, [channel, u32, text]),
            ("answer_error", ctypes.c_int, [channel, u32, ctypes.c_int, text]),
            ("answer_state", ctypes.c_int, [channel, u32, text, ctypes.c_size_t]),
            ("event", ctypes.c_int, [channel, text, text]),
            ("counter", None, [channel, ctypes.c_uint, u64])):
        function = getattr(lib, "dt_channel_" + name)
        function.restype, function.argtypes = result, arguments
    return lib


class _Parameter:
    """One parameter: a class attribute that declares it, and an instance's value."""
    type = "text"

    def __init__(self, default=None, *, live=False, secret=False, unit=None, min=None, max=None,
                 choices=None, help="(not documented)"):
        self.declared = {"type": self.type, "help": help, "unit": unit, "live": live,
                         "secret": secret, "required": default is None and self.must,
                         "default": default, "min": min, "max": max, "choices": choices}

    must = True

    def parse(self, text):
        return text


class Text(_Parameter):
    """Any text; None without a default."""
    must = False


class Path(_Parameter):
    """A path, made absolute."""
    type = "path"


class Bool(_Parameter):
    type = "on|off"

    def parse(self, text):
        return text == "on"


class Number(_Parameter):
    """20k is 20000."""
    type = "number"
    units = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

    def parse(self, text):
        for unit in sorted(self.units, key=len, reverse=True):
            if text.endswith(unit):
                return int(text[:-len(unit)]) * self.units[unit]
        return int(text)


class Size(Number):
    """64K is 65536 bytes."""
    type = "size"
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}


class Duration(Number):
    """In seconds."""
    type = "duration"
    units = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}

    def parse(self, text):
        return super().parse(text) / 1e9


class Fraction(_Parameter):
    """0 to 1; 1% is 0.01."""
    type = "fraction"

    def parse(self, text):
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)


class Choice(_Parameter):
    type = "choice"


class Ops(_Parameter):
    """A set of READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES."""
    type = "operations"

    def parse(self, text):
        if text in ("all", "none"):
            return set(range(5)) if text == "all" else set()
        return {OPS.index(word) for word in text.split(",")}


class Request:
    """A request of the guest, until it is answered or (without a `response`) forwarded.

    op, sector, sectors, queue, error; replayed: may have been executed before a crash; data, below:
    memoryviews, if the extension asks for data.
    """
    __slots__ = ("_ext", "id", "op", "sector", "sectors", "queue", "error", "flags", "data",
                 "below", "gone", "user")

    def __init__(self, ext, event):
        self._ext = ext
        self.id, self.op, self.queue = event.id, event.op, event.queue
        self.sector, self.sectors, self.flags = event.sector, event.sectors, event.flags
        self.error = -event.error
        self.gone = False
        self.data = _view(event.data, event.bytes)
        self.below = _view(event.below, event.bytes)

    @property
    def replayed(self):
        return bool(self.flags & 1)

    def forward(self):
        """On to the next layer."""
        self.gone = True
        self._ext._forward(self)

    def complete(self, error=0):
        """Back to the guest; @error is an errno."""
        self.gone = True
        self._ext._complete(self, error)


def _view(address, size):
    if not address or not size:
        return None
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


class Extension:
    """Derive from it, name it, and override request() or response()."""
    name = None
    summary = None  # by default the first line of the class's documentation
    content_bearing = False
    read_data = write_data = "none"
    holds = False  # keeps requests for a time of its own
    counters = ()  # (name, unit, help)
    commands = {}  # name: (arguments, help); each is a method: do_NAME
    state_version = 0

    # What an extension may override.

    def start(self):
        """Parameters are set; self.disk describes the disk below."""

    def request(self, req):
        """On its way down: forward() or complete() it, now or later. One that is neither, and not
        returned as True ("I keep it"), goes on when this returns."""

    response = None  # as request(), on its way up; it goes on when this returns

    def changed(self, name):
        """A live parameter changed; an exception refuses it."""

    def quiesce(self):
        """Let go of what is held."""

    save = None  # bytes for the next process
    load = None

    # What it may call.

    def event(self, event, text):
        """Something that a person should know."""
        self._lib.dt_channel_event(self._ch, event.encode(), text.encode())

    def count(self, name, n=1):
        """Add to a counter."""
        index = self._counter_index[name]
        self._counts[index] += n
        self._lib.dt_channel_counter(self._ch, index, self._counts[index])

    # ---- The machinery ----

    def __init__(self):
        self._lib = _load()
        self._ch = ctypes.c_void_p()
        self._params = self._declared()
        self._counts = [0] * len(self.counters)
        self._counter_index = {c[0]: i for i, c in enumerate(self.counters)}
        self._waiting = {}
        self._wants_response = self.response is not None
        self.disk = {}

    @classmethod
    def _declared(cls):
        found = {}
        for base in reversed(cls.__mro__):
            for name, value in vars(base).items():
                if isinstance(value, _Parameter):
                    found[name] = value
        return found

    def describe(self):
        """What devtap is told about us."""
        doc = (type(self).__doc__ or "").strip()
        lines = doc.splitlines() or [""]
        params = [dict({"name": name.replace("_", "-")},
                       **{k: v for k, v in p.declared.items() if v is not None})
                  for name, p in self._params.items()]
        more = " ".join(line.strip() for line in lines[1:]).strip()
        return {"name": self.name or type(self).__name__.lower(),
                "summary": self.summary or lines[0] or "(not documented)",
                "help": more or None,
                "content_bearing": self.content_bearing, "read_data": self.read_data,
                "write_data": self.write_data, "holds": self.holds,
                "responses": self._wants_response, "saves": self.save is not None,
                "state_version": self.state_version, "parameters": params,
                "counters": [dict(zip(("name", "unit", "help"), c)) for c in self.counters],
                "commands": [{"name": n, "args": a, "help": h}
                             for n, (a, h) in self.commands.items()]}

    def _forward(self, req):
        if not self._wants_response:
            self._lib.dt_channel_forward(self._ch, req.id, req.sector, True)
            return
        self._waiting[req.id] = req
        self._lib.dt_channel_forward(self._ch, req.id, req.sector, False)

    def _complete(self, req, error):
        self._lib.dt_channel_complete(self._ch, req.id, -abs(error))

    def _on_request(self, event):
        req = Request(self, event)
        if self.request(req) is not True and not req.gone:
            req.forward()

    def _on_response(self, event):
        req = self._waiting.pop(event.id)
        req.error, req.gone = -event.error, False
        if self.response(req) is not True and not req.gone:
            req.complete(req.error)

    def _set(self, name, value):
        key = name.replace("-", "_")
        setattr(self, key, self._params[key].parse(value))
        return key

    def _init(self, message):
        for name, parameter in self._params.items():
            setattr(self, name, None)
        for name, value in message["parameters"].items():
            self._set(name, value)
        self.disk = message["below"]
        return {"info": self.disk}

    def _load(self, fd, version):
        if version != self.state_version or self.load is None:
            raise ValueError(f"a state of version {version}, not {self.state_version}")
        self.load(os.pread(fd, os.fstat(fd).st_size, 0))

    def _live(self, message):
        key = message["param"].replace("-", "_")
        old = getattr(self, key)
        try:
            self._set(message["param"], message["value"])
            self.changed(key)
        except Exception:
            setattr(self, key, old)
            raise

    def _do(self, message):
        method = getattr(self, "do_" + message["verb"].replace("-", "_"))
        return {"reply": method(*message["args"]) or {}}

    def _answer_control(self, event):
        message = json.loads(event.text) if event.text else {}
        if event.control == _INIT:
            return self._init(message)
        if event.control == _START:
            return self.start()
        if event.control == _LOAD:
            return self._load(event.fd, message["version"])
        if event.control == _SET:
            return self._live(message)
        if event.control == _DO:
            return self._do(message)
        if event.control == _INFO:
            self.disk = message["below"]
            return {"info": self.disk}
        raise NotImplementedError(f"control {event.control}")

    def _on_control(self, event):
        if event.control == _STOP:
            return False
        if event.control == _QUIESCE:
            self.quiesce()
            return True
        try:
            if event.control == _SAVE:
                state = self.save() if self.save is not None else b""
                self._lib.dt_channel_answer_state(self._ch, event.seq, state, len(state))
                return True
            answer = json.dumps(self._answer_control(event) or {}).encode()
            self._lib.dt_channel_answer(self._ch, event.seq, answer)
        except Exception as error:  # pylint: disable=broad-except
            text = f"{type(error).__name__}: {error}"
            self._lib.dt_channel_answer_error(self._ch, event.seq,
                                              getattr(error, "errno", None) or 22, text.encode())
        finally:
            if event.fd >= 0:
                os.close(event.fd)
        return True

    def _serve(self):
        events = (_Event * BURST)()
        poll, wait = self._lib.dt_channel_poll, self._lib.dt_channel_wait
        while True:
            n = poll(self._ch, events, BURST)
            for i in range(n):
                event = events[i]
                if event.type == _REQUEST:
                    self._on_request(event)
                elif event.type == _RESPONSE:
                    self._on_response(event)
                elif event.type == _END or (event.type == _CONTROL
                                            and not self._on_control(event)):
                    return
            if n < BURST:
                wait(self._ch, -1)
            else:
                self._lib.dt_channel_flush(self._ch)

    def run(self):
        """Serve until devtap has no more need of us."""
        error = _Error()
        description = json.dumps(self.describe()).encode()
        if self._lib.dt_channel_open(ctypes.byref(self._ch), -1, description,
                                     ctypes.byref(error)) < 0:
            sys.exit(f"{self.describe()['name']}: {error.text.decode()}")
        self._serve()


def run(extension):
    """Run an extension, given as a class, until devtap has no more need of it."""
    extension().run()


# ---- Packets ----

class Packet:
    """An Ethernet frame that waits for a verdict: accept() or drop(), once.

    transmit: from the guest to the wire; else the other way. length: of the frame; data: a
    memoryview of its first bytes, all of them unless the layer has snap=, until the verdict.
    queue: the guest's queue pair. when: seconds of time.monotonic(). needs, segment: what is left
    to do on it; 0 unless the layer has super=on.
    """
    __slots__ = ("_queue", "_session", "id", "transmit", "length", "data", "queue", "when", "needs",
                 "segment", "gone", "user")

    def __init__(self, queue, session, raw):
        self._queue, self._session = queue, session
        self.id, self.transmit, self.length = raw.id, raw.transmit, raw.length
        self.queue, self.needs, self.segment = raw.queue, raw.needs, raw.segment
        self.when, self.gone = raw.when / 1e9, False
        self.data = _view(raw.data, raw.captured)

    def _decide(self, verdict, data=None):
        if not self.gone:
            self._queue._decide(self._session, self.id, verdict, data)
        self.gone, self.data = True, None

    def accept(self, data=None):
        """It goes on: as it is, or with other bytes (those of `data` alone, if that was not all)."""
        self._decide(1, None if data is None else bytes(data))

    def drop(self):
        """It ends here."""
        self._decide(0)


class PacketQueue:
    """Judges a card's packets: derive from it, and override packet().

    path: the parameter socket= of the card's `queue` layer. It connects, and again whenever the
    card is served by another process; packets that were without a verdict then are that layer's.
    """
    SLICE = 0.5  # seconds between two looks at signals

    def __init__(self, path):
        self.path = path
        self.card = {}  # "device", "layer", "mtu", "direction", "length", "snap"
        self._lib = _load()
        self._queue = ctypes.c_void_p()
        self._session = 0
        self._timers, self._set = [], 0
        self._stopped = False

    # What a program may override.

    def packet(self, packet):
        """accept() or drop() it, now or later. One that is neither, and not returned as True
        ("I keep it"), is accepted when this returns."""

    def attached(self):
        """There is a card; self.card describes it. Packets kept from before are nobody's now."""

    # What it may call.

    def later(self, seconds, function, *arguments):
        """Call a function then."""
        self._set += 1  # functions are in no order
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._set, function, arguments))

    def event(self, event, text):
        """Something that a person should know: for the card's log."""
        if self._queue:
            self._lib.dt_queue_event(self._queue, event.encode(), text.encode())

    def stop(self):
        """run() shall return."""
        self._stopped = True

    def run(self):
        """Judge until stop()."""
        try:
            while not self._stopped:
                if self._open():
                    self.attached()
                    self._serve()
        finally:
            self._close()

    # ---- The machinery ----

    def _open(self):
        error = _Error()
        self._session += 1  # before timers run: what they have kept is of the session before
        code = self._lib.dt_queue_open(ctypes.byref(self._queue), os.fsencode(self.path),
                                       int(self.SLICE * 1000), ctypes.byref(error))
        self._run_timers()
        if code == 0:
            self.card = json.loads(self._lib.dt_queue_description(self._queue))
        elif -code not in (errno.ENOENT, errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EAGAIN,
                           errno.EPIPE):
            raise OSError(-code, error.text.decode())
        return code == 0

    def _close(self):
        self._lib.dt_queue_close(self._queue)
        self._queue = ctypes.c_void_p()

    def _decide(self, session, number, verdict, data):
        if session != self._session or not self._queue:
            return  # its card is served by another process now
        code = self._lib.dt_queue_set_verdict(self._queue, number, verdict, data, len(data or b""))
        if code < 0:
            raise OSError(-code, os.strerror(-code))

    def _run_timers(self):
        """Returns milliseconds until the next."""
        while self._timers and self._timers[0][0] <= time.monotonic():
            *_, function, arguments = heapq.heappop(self._timers)
            function(*arguments)
        wait = self._timers[0][0] - time.monotonic() if self._timers else self.SLICE
        return max(0, int(min(wait, self.SLICE) * 1000) + 1)

    def _serve(self):
        raw = (_Packet * BURST)()
        while not self._stopped:
            n = self._lib.dt_queue_read(self._queue, raw, BURST, self._run_timers())
            if n < 0:
                self._close()
                return
            for each in raw[:n]:
                packet = Packet(self, self._session, each)
                if self.packet(packet) is not True and not packet.gone:
                    packet.accept()
