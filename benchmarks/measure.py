# SPDX-License-Identifier: Apache-2.0
"""Rounds of measurements, and what they come to."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Say = Callable[[str], None]
#: Takes a turn, and returns the seconds that count.
Taker = Callable[[], float]
#: The longest that a single turn may take, in seconds.
LONGEST = 600.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Sum up; at least one value."""
        values = list(values)
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Result:
    """The times of one contender.

    :param name: its name.
    :param seconds: one for each round.
    :param ratios: of these, to the time of the first contender in the same
        round, so that what slows the whole machine for a while cancels out.
    """

    name: str
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Result:
        """What :meth:`to_json` gave."""
        return cls(
            plain["name"], tuple(plain["seconds"]), tuple(plain["ratios"])
        )

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain types."""
        return asdict(self) | {
            "seconds_spread": asdict(Spread.of(self.seconds)),
            "ratio_spread": asdict(Spread.of(self.ratios)),
        }


#: A size, and what came of it for all contenders, always in the same order.
Column = tuple[int, Sequence[Result]]


def compare(
    times: Mapping[str, Sequence[float]], baseline: Sequence[float]
) -> list[Result]:
    """Ratios to a baseline, round by round."""
    return [
        Result(
            name,
            tuple(seconds),
            tuple(
                one / other
                for one, other in zip(seconds, baseline, strict=True)
            ),
        )
        for name, seconds in times.items()
    ]


def take_turns(
    takers: Mapping[str, Taker], rounds: int, what: str, say: Say
) -> list[Result]:
    """Let all take a turn, round by round.

    :param takers: by name; the first is what the others are compared with.
    :param what: what they do, for the progress.
    """
    times: dict[str, list[float]] = {name: [] for name in takers}
    for number in range(1, rounds + 1):
        for name, taker in takers.items():
            say(f"{what}, round {number} of {rounds}: {name}")
            # What one has left to write must not slow the next.
            os.sync()
            times[name].append(taker())
    return compare(times, next(iter(times.values())))


def clock(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def clock_command(argv: Sequence[str]) -> float:
    """Seconds that a command takes, from start to end.

    :raises RuntimeError: if it fails, with what it says.
    """
    start = time.perf_counter()
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=LONGEST
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return seconds
