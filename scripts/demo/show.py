"""What the demo prints: steps with the time since its start, and what each of them found."""

import sys
import time

BEGUN = time.monotonic()


def step(text):
    """Announces a step with the time since the start."""
    print(f"\033[1m[{time.monotonic() - BEGUN:5.1f} s] {text}\033[0m" if sys.stdout.isatty()
          else f"[{time.monotonic() - BEGUN:5.1f} s] {text}", flush=True)


def show(text):
    """Prints what a step found, indented."""
    for line in str(text).rstrip().splitlines():
        print(f"          {line}", flush=True)
