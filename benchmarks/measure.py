# SPDX-License-Identifier: Apache-2.0
"""Turns of what is compared, and the time that each takes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

#: Takes a turn, and returns the seconds that count.
Taker = Callable[[], float]
Times = dict[str, list[float]]
#: The longest that a single command may take, in seconds.
LONGEST = 600.0


def take_turns(takers: Mapping[str, Taker], rounds: int, what: str) -> Times:
    """Let all take a turn, round by round; return the seconds of each."""
    times: Times = {name: [] for name in takers}
    for number in range(1, rounds + 1):
        for name, taker in takers.items():
            say(f"{what}, round {number} of {rounds}: {name}")
            # What one has left to write must not slow the next.
            os.sync()
            times[name].append(taker())
    return times


def clock(call: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def run(argv: Sequence[str]) -> str:
    """Run a command, and return what it prints; an error has what it says."""
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=LONGEST
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def say(text: str) -> None:
    """Say what goes on, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
