#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""symmetry.py - a worked example in Python: delay flows that are not answered (HotNets 2005; thesis 4.3).

    devtap run --net vm1 --socket vm1-net.sock 'queue socket=/run/vm1.queue super=on | tap ifname=vm1'
    symmetry.py /run/vm1.queue
"""
import collections
import functools
import math
import sys
import time

import devtap

THRESHOLD, LONGEST, FLOWS, SHARE = 2.0, 2.048, 65536, 32


class Flow:
    def __init__(self, _key):
        self.sent, self.received, self.waiting = (collections.deque() for _ in range(3))
        self.n = 0  # the next packet is delayed by 2^n ms

    def asymmetric(self):
        for times in self.sent, self.received:
            while times and times[0] <= time.monotonic() - 1:
                times.popleft()
        return math.log((len(self.sent) + 1) / (len(self.received) + 1)) > THRESHOLD


flow_of = functools.lru_cache(FLOWS)(Flow)  # the one that was quiet for longest is forgotten first


class Symmetry(devtap.PacketQueue):
    def packet(self, p):
        flow = flow_of(p.flow)
        if not p.transmit:
            flow.received.append(p.when)
        elif len(flow.waiting) == SHARE:  # others need the ring, too
            p.drop()
        else:
            flow.waiting.append(p)
            if len(flow.waiting) == 1:
                self.next(flow)
            return True  # kept: accepted now or later

    def next(self, flow):
        if not flow.asymmetric():
            flow.n = 0
            return self.go(flow)
        if flow.n == 0:
            self.event("limited", f"a flow of {len(flow.sent)} packets a second has {len(flow.received)} answers")
        self.later(min(2**flow.n / 1000, LONGEST), self.go, flow)
        flow.n += 1

    def go(self, flow):
        flow.waiting.popleft().accept()
        flow.sent.append(time.monotonic())
        if flow.waiting:
            self.next(flow)


Symmetry(sys.argv[1]).run()
