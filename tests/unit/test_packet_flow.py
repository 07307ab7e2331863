#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Packet.flow of python/devtap.py: the same both ways, other for others, and nothing that a guest sends makes it fail."""

import struct
import unittest

from devtap import _flow

A, B = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")


def ipv4(source, to, protocol=6, ports=(1, 2), fragment=0, options=0):
    """Without MAC addresses."""
    return b"\x08\x00" + struct.pack("!BxHHHBBH4s4s", 0x45 + options, 40, 0, fragment, 64, protocol, 0, source, to) + \
        bytes(4 * options) + struct.pack("!HH", *ports) + bytes(16)


def ipv6(source, to, ports=(1, 2)):
    """The same."""
    return b"\x86\xdd" + struct.pack("!IHBB16s16sHH", 6 << 28, 20, 17, 64, source, to, *ports) + bytes(16)


HOSTS4, HOSTS6 = (b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"), (bytes(15) + b"\x01", bytes(15) + b"\x02")


class Flows(unittest.TestCase):
    """Frames, and what they have in common."""

    def test_directions(self):
        """Ends and their ports belong together."""
        for make, (one, two) in ((ipv4, HOSTS4), (ipv6, HOSTS6)):
            there = _flow(A + B + make(one, two, ports=(1, 2)))
            self.assertEqual(there, _flow(B + A + make(two, one, ports=(2, 1))))
            self.assertNotEqual(there, _flow(B + A + make(two, one, ports=(1, 2))))
            self.assertNotEqual(there, _flow(A + B + make(one, two, ports=(1, 3))))

    def test_headers(self):
        """Tags and options are passed over, fragments have no ports, and other protocols none either."""
        plain = _flow(A + B + ipv4(*HOSTS4))
        self.assertEqual(plain, _flow(A + B + b"\x81\x00\x00\x07" + ipv4(*HOSTS4)))
        self.assertEqual(plain, _flow(A + B + ipv4(*HOSTS4, options=3)))
        whole, rest = (_flow(A + B + ipv4(*HOSTS4, fragment=n)) for n in (0x2000, 185))
        self.assertEqual(whole, rest)
        self.assertNotEqual(whole, plain)
        self.assertEqual(_flow(A + B + ipv4(*HOSTS4, 1, (1, 2))), _flow(A + B + ipv4(*HOSTS4, 1, (3, 4))))
        self.assertEqual(_flow(A + B + b"\x08\x06" + bytes(28)), _flow(B + A + b"\x08\x06" + bytes(28)))

    def test_cut(self):
        """Of any length it is a key, for memoryviews too."""
        for frame in (A + B + ipv4(*HOSTS4), A + B + ipv6(*HOSTS6), A + B + 9 * b"\x81\x00\x00\x01"):
            for n in range(len(frame) + 1):
                hash(_flow(memoryview(frame[:n])))


if __name__ == "__main__":
    unittest.main()
