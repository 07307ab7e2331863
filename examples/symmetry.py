#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""symmetry.py - a worked example in Python: delay flows that are not answered (HotNets 2005; thesis 4.3).

    devtap run --net vm1 --socket vm1-net.sock 'queue socket=/run/vm1.queue super=on | tap ifname=vm1'
    symmetry.py /run/vm1.queue
"""
import collections
import math
import sys
import time

import devtap

THRESHOLD, LONGEST, FLOWS, SHARE = 2.0, 2.048, 65536, 32


class Flow:
    def __init__(self):
        self.sent, self.received, self.waiting = (collections.deque() for _ in range(3))
        self.n = 0  # the next packet is delayed by 2^n ms

    def asymmetry(self, now):
        for times in self.sent, self.received:
            while times and times[0] <= now - 1:
                times.popleft()
        return math.log((len(self.sent) + 1) / (len(self.received) + 1))


class Symmetry(devtap.PacketQueue):
    flows = collections.OrderedDict()

    def flow_of(self, p):
        ip4 = p.data[12:14] == b"\x08\x00" and p.length >= 38
        ends = (p.data[26:30], p.data[34:36], p.data[30:34], p.data[36:38]) if ip4 else (p.data[:6], b"", p.data[6:12], b"")
        a, b, c, d = map(bytes, ends)
        key = frozenset([(a, b), (c, d)])  # the same in both directions
        if key not in self.flows and len(self.flows) == FLOWS:
            self.flows.popitem(last=False)
        return self.flows.setdefault(key, Flow())

    def packet(self, p):
        flow, now = self.flow_of(p), time.monotonic()
        if not p.transmit:
            flow.received.append(now)
        elif len(flow.waiting) == SHARE:  # others need the ring, too
            p.drop()
        elif flow.waiting or flow.asymmetry(now) > THRESHOLD:
            flow.waiting.append(p)
            if len(flow.waiting) == 1:
                self.event("limited", f"a flow of {len(flow.sent)} packets a second has {len(flow.received)} answers")
                self.delay(flow)
            return True  # kept: accepted later
        else:
            flow.n = 0
            flow.sent.append(now)

    def delay(self, flow):
        self.later(min(2**flow.n / 1000, LONGEST), self.go_on, flow)
        flow.n += 1

    def go_on(self, flow):
        while flow.waiting:
            flow.waiting.popleft().accept()
            flow.sent.append(time.monotonic())
            if flow.waiting and flow.asymmetry(time.monotonic()) > THRESHOLD:
                return self.delay(flow)
            flow.n = 0


Symmetry(sys.argv[1]).run()
