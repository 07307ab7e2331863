"""A driver of a network card that attaches and does nothing: as little vhost-user as that needs."""

import array
import mmap
import os
import socket
import struct

# docs/interop/vhost-user.rst
GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = 8, 9, 10, 12, 13
VERSION_1 = 1 << 32
ENTRIES, RING_BYTES, GUEST = 64, 8192, 0x100000


class Driver:
    """One pair of split rings, empty. A context."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(path))
        self.fds = [os.memfd_create("guest")]
        os.ftruncate(self.fds[0], 2 * RING_BYTES)
        self.memory = mmap.mmap(self.fds[0], 2 * RING_BYTES)
        self._send(SET_OWNER)
        self._send(GET_FEATURES)
        [self.features] = struct.unpack("<12xQ", self.sock.recv(20, socket.MSG_WAITALL))
        assert self.features & VERSION_1
        self._send(SET_FEATURES, struct.pack("<Q", VERSION_1))  # without protocol features rings are enabled by themselves
        self._send(SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, GUEST, 2 * RING_BYTES, GUEST, 0), self.fds[0])
        for ring in range(2):
            desc = GUEST + ring * RING_BYTES
            self._send(SET_VRING_NUM, struct.pack("<II", ring, ENTRIES))
            self._send(SET_VRING_ADDR, struct.pack("<IIQQQQ", ring, 0, desc, desc + 4096, desc + 2048, 0))
            self._send(SET_VRING_BASE, struct.pack("<II", ring, 0))
            for request in (SET_VRING_CALL, SET_VRING_KICK):
                self.fds.append(os.eventfd(0))
                self._send(request, struct.pack("<Q", ring), self.fds[-1])

    def _send(self, request, payload=b"", fd=None):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self.sock.sendmsg([struct.pack("<III", request, 1, len(payload)) + payload], rights)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()
        self.memory.close()
        for fd in self.fds:
            os.close(fd)
