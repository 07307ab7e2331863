#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""fault.py - a worked example in Python: a disk of which some requests fail.

    devtap run --disk vm1 --socket vm1.sock './fault.py rate=1% ops=read | file path=vm1.img'
    devtap help ./fault.py               # its parameters, declared below
    devtap set vm1 fault rate=50%        # changed while the VM runs
"""
import errno
import random

import devtap


class Fault(devtap.Extension):
    """Fail some requests, as a dying disk does (a worked example in Python)"""
    name = "fault"
    rate = devtap.Fraction("1%", live=True, help="Which part of the requests fails.")
    ops = devtap.Ops("read,write", live=True, help="Which operations may fail.")
    seed = devtap.Number("1", help="The same seed and requests give the same faults.")
    counters = [("faults", "requests", "Requests that were failed.")]

    def start(self):
        self.random = random.Random(self.seed)

    def request(self, req):
        if req.op in self.ops and self.random.random() < self.rate:
            self.count("faults")
            req.complete(errno.EIO)  # answered here; anything else goes on to the disk


devtap.run(Fault)
