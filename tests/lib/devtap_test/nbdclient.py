"""A client of an NBD server on a Unix socket that does what it is told, in the order in which it is told."""

import socket
import struct

READ, WRITE, DISCONNECT, FLUSH, TRIM = range(5)
_OPTION, _REQUEST, _REPLY = 0x49484156454F5054, 0x25609513, 0x67446698
_FIXED_NO_ZEROES, _EXPORT_NAME = 3, 1


class NbdClient:
    """A connection; .size is the export's."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self._need(16)
        self._need(2)
        self.sock.sendall(struct.pack(">IQII", _FIXED_NO_ZEROES, _OPTION, _EXPORT_NAME, 0))
        self.size, _flags = struct.unpack(">QH", self._need(10))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """In good order."""
        self.sock.sendall(struct.pack(">IHHQQI", _REQUEST, 0, DISCONNECT, 0, 0, 0))
        self.sock.close()

    def send(self, kind, handle, offset=0, length=0, data=b""):
        """A request, which .answer() will tell the end of by its handle."""
        self.sock.sendall(struct.pack(">IHHQQI", _REQUEST, 0, kind, handle, offset, length or len(data)) + data)

    def answer(self, length=0):
        """The handle of whichever request ended; fails if it failed. length: of a read, the only one under way."""
        magic, error, handle = struct.unpack(">IIQ", self._need(16))
        assert magic == _REPLY, hex(magic)
        assert error == 0, f"request {handle}: error {error}"
        return (handle, self._need(length)) if length else handle

    def read(self, offset, length):
        """The bytes there."""
        self.send(READ, 1, offset, length)
        return self.answer(length)[1]

    def write(self, offset, data):
        """Ends when it is done."""
        self.send(WRITE, 1, offset, data=data)
        self.answer()

    def flush(self):
        """Likewise."""
        self.send(FLUSH, 1)
        self.answer()

    def _need(self, length):
        data = bytearray()
        while len(data) < length:
            more = self.sock.recv(length - len(data))
            assert more, "the NBD server has gone"
            data += more
        return bytes(data)
