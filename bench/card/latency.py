"""The part `latency` of bench/network: what a soft card adds to a round trip."""

import contextlib
import statistics
import subprocess
import tempfile

from devtap_test.card import MAC, Card, Namespace

BACK = ("taskset", "-c", "0")
SETUP = """
ip tuntap add dev card1 mode tap vnet_hdr
ip addr add 10.78.0.1/24 dev card1
for interface in card0 card1; do
    sysctl -qw net.ipv6.conf.$interface.disable_ipv6=1
    ip link set $interface up
done
ip neigh replace 10.77.0.2 lladdr {mac} dev card0 nud permanent
ip neigh replace 10.78.0.2 lladdr {mac} dev card1 nud permanent
"""


def once(program, mode, seconds):
    """Medians and 99th percentiles in us, each of: the interface itself, the card, an eventfd."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="devtap-bench."))
        space = stack.enter_context(Namespace(folder))
        space.run("sh", "-c", SETUP.format(mac=MAC))
        card = stack.enter_context(Card("tap ifname=card0", folder, [*space.enter, *BACK],
                                        ("--poll", "1s" if mode == "poll" else "0s")))
        said = subprocess.run([*space.enter, program, card.socket, "card0", "card1", str(seconds), mode], check=True,
                              timeout=seconds + 30, text=True, stdout=subprocess.PIPE).stdout
        return [[float(word) for word in line.split()] for line in said.splitlines()]


def run(bench, program):
    """Polling, and sleeping."""
    print("\n## An echo's round trip, us\n\n| | the interface itself | through a card | added | added, p99 | an eventfd |\n|---|---|---|---|---|---|")
    for mode in ("poll", "sleep"):
        rounds = [once(program, mode, bench.options.seconds) for _ in range(bench.options.rounds)]
        direct, card, bare = (statistics.median(each[0][way] for each in rounds) for way in range(3))
        added = [each[0][1] - each[0][0] for each in rounds]
        late = statistics.median(each[1][1] - each[1][0] for each in rounds)
        print(f"| both {mode} | {direct:.1f} | {card:.1f} | {statistics.median(added):.1f} ({min(added):.1f}..{max(added):.1f}) | "
              f"{late:.1f} | {f'{bare:.1f}' if mode == 'sleep' else '-'} |", flush=True)
        if mode == "poll":
            bench.goal("round trip added, polling, us", "2", added, "{:.1f}")
        else:
            bench.goal("the same, sleeping, beyond an eventfd's, us", "5", [each[0][1] - each[0][0] - each[0][2] for each in rounds],
                       "{:.1f}")
