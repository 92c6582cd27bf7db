# SPDX-License-Identifier: Apache-2.0
"""Our part of ``container run`` beside libvirt's own start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.child import make_manager
from benchmarks.debian.image import Image
from benchmarks.measure import Say, clock
from benchmarks.scratch import Scratch
from lxc_userns import rootfs
from lxc_userns.verification import VerifiedInstance

#: What is told apart; the rest is locks, records and looking things up.
PREPARE, DEFINE, START, VERIFY = "prepare", "define", "start", "verify"
PARTS = (PREPARE, DEFINE, START, VERIFY)
_NAME = "bench"


@dataclass(frozen=True, slots=True)
class Start:
    """The starts of a container in one way.

    :param name: the strategy, and whether it is the first start.
    :param totals: seconds of each ``container run``.
    :param parts: seconds of each of :data:`PARTS` in it.
    """

    name: str
    totals: tuple[float, ...]
    parts: Mapping[str, tuple[float, ...]]

    @property
    def rest(self) -> tuple[float, ...]:
        """Seconds that are in none of the parts."""
        parts = zip(*self.parts.values(), strict=True)
        return tuple(
            total - sum(some)
            for total, some in zip(self.totals, parts, strict=True)
        )

    @property
    def ours(self) -> tuple[float, ...]:
        """Seconds of all but libvirt's start."""
        return tuple(
            total - start
            for total, start in zip(
                self.totals, self.parts[START], strict=True
            )
        )

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of our part to libvirt's start."""
        return tuple(
            ours / start
            for ours, start in zip(self.ours, self.parts[START], strict=True)
        )

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Start:
        """What :meth:`to_json` gave."""
        parts = {name: tuple(plain["parts"][name]) for name in PARTS}
        return cls(plain["name"], tuple(plain["totals"]), parts)

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain types."""
        return {"name": self.name, "totals": self.totals, "parts": self.parts}


class Stopwatch:
    """Takes the time of methods of an object whenever they are called."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def watch(self, target: object, name: str, part: str) -> None:
        """Have a method of an object watched.

        :param part: by what name its seconds are read.
        """
        setattr(target, name, self._watched(part, getattr(target, name)))

    def read(self) -> dict[str, float]:
        """Seconds of each part that was called since the last reading."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _watched(
        self, part: str, method: Callable[..., object]
    ) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            results: list[object] = []
            self._seconds[part] = clock(
                lambda: results.append(method(*arguments, **options))
            )
            return results[0]

        return call


@dataclass(frozen=True, slots=True)
class Way:
    """How a container is started.

    :param name: its name in the table.
    :param strategy: how its owners are shifted.
    :param is_known: whether the container was there before, and is stopped.
    """

    name: str
    strategy: str
    is_known: bool = False


#: In this order: the second chown finds the image shifted.
WAYS = (
    Way("run, idmapped", "idmapped"),
    Way("start, idmapped", "idmapped", is_known=True),
    Way("run, overlay", "overlay"),
    Way("run, chown", "chown"),
    Way("run, chown, shifted before", "chown"),
    Way("start, chown", "chown", is_known=True),
)


class Starter:
    """Runs containers from one root filesystem.

    :param image: it; its owners are guest IDs again afterwards.
    """

    def __init__(self, image: Image, scratch: Scratch) -> None:
        from lxc_userns.containers import Containers

        self._image = image
        manager = make_manager(scratch, "starts")
        self._stopwatch = Stopwatch()
        self._stopwatch.watch(manager, "prepare", PREPARE)
        self._stopwatch.watch(manager, "prepare_again", PREPARE)
        self._stopwatch.watch(manager, "verify", VERIFY)
        self._stopwatch.watch(manager.guests, "define", DEFINE)
        self._stopwatch.watch(manager.guests, "start", START)
        self._containers = Containers(manager)

    def take(self, way: Way) -> dict[str, float]:
        """Start a container, and take it away again.

        :returns: seconds of each part, and of the whole as ``total``.
        """
        from lxc_userns.containers import ContainerSpec

        spec = ContainerSpec(
            _NAME, str(self._image.tree), strategy=way.strategy
        )
        call = partial(self._containers.run, spec)
        if way.is_known:
            _kill(call())
            self._containers.stop(_NAME)
            call = partial(self._containers.start, _NAME)
        os.sync()
        self._stopwatch.read()
        start = time.perf_counter()
        running = call()
        total = time.perf_counter() - start
        seconds = self._stopwatch.read()
        _kill(running)
        self._containers.destroy(_NAME)
        return {"total": total, **seconds}

    def unshift(self) -> None:
        """Put the image back."""
        rootfs.unshift(self._image.tree)


def _kill(running: VerifiedInstance) -> None:
    # libvirt would ask it to end first, and wait for two seconds.
    os.kill(running.pid, signal.SIGKILL)


def measure(
    image: Image, scratch: Scratch, rounds: int, say: Say
) -> list[Start]:
    """Start a container in each way, by turns."""
    starter = Starter(image, scratch)
    # libvirt and we load what we need.
    starter.take(WAYS[0])
    found: dict[str, list[dict[str, float]]] = {way.name: [] for way in WAYS}
    for number in range(1, rounds + 1):
        for way in WAYS:
            say(f"container, round {number} of {rounds}: {way.name}")
            found[way.name].append(starter.take(way))
        starter.unshift()
    return [_sum_up(name, runs) for name, runs in found.items()]


def _sum_up(name: str, runs: Sequence[Mapping[str, float]]) -> Start:
    # A container that is known is not defined again.
    parts = {part: tuple(run.get(part, 0.0) for run in runs) for part in PARTS}
    return Start(name, tuple(run["total"] for run in runs), parts)
