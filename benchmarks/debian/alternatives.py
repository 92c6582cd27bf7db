# SPDX-License-Identifier: Apache-2.0
"""When owners can be shifted, and what each way costs, step by step.

All steps are commands that a user could type.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import id_map_text
from benchmarks.debian.image import CREATE, EXTRACT, Image
from benchmarks.measure import Say, clock_command
from benchmarks.scratch import Scratch, disk_bytes

#: When a step is done: by whoever makes the image, for each image on a host,
#: for each container.
CREATOR, IMAGE, CONTAINER = "creator", "image", "container"
_PROGRAM = "lxc-userns"
_STOP = (_PROGRAM, "container", "stop", "{name}", "--timeout", "0")
_DESTROY = (_PROGRAM, "container", "destroy", "{name}")


@dataclass(frozen=True, slots=True)
class Step:
    """A command.

    :param when: how often it is needed.
    :param argv: what is run, with places as ``{archive}``.
    """

    when: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alternative:
    """A way from an archive to a running container.

    :param name: when its owners are shifted.
    :param steps: in their order; the last leaves the container running.
    """

    name: str
    steps: tuple[Step, ...]


def _tar(command: tuple[str, ...], archive: str, tree: str) -> tuple[str, ...]:
    last = ("-C", tree, ".") if command is CREATE else ("-C", tree)
    return (*command, "--file", archive, *last)


def _rootfs(*words: str) -> tuple[str, ...]:
    return (_PROGRAM, "rootfs", *words)


def _run(rootfs: str, strategy: str) -> Step:
    argv = (_PROGRAM, "container", "run", "{name}", "--rootfs", rootfs)
    return Step(CONTAINER, (*argv, "--strategy", strategy))


_PLAIN = Step(IMAGE, _tar(EXTRACT, "{archive}", "{cache}"))
_COPY = Step(CONTAINER, ("cp", "-a", "{cache}", "{instance}"))

ALTERNATIVES = (
    Alternative(
        "by the image's creator",
        (
            Step(CREATOR, _rootfs("unpack", "{archive}", "{tree}")),
            Step(CREATOR, _tar(CREATE, "{shifted}", "{tree}")),
            Step(IMAGE, _tar(EXTRACT, "{shifted}", "{cache}")),
            _COPY,
            _run("{instance}", "chown"),
        ),
    ),
    Alternative(
        "on import",
        (
            Step(IMAGE, _rootfs("unpack", "{archive}", "{cache}")),
            _COPY,
            _run("{instance}", "chown"),
        ),
    ),
    Alternative("on import, by each container", (_run("{archive}", "chown"),)),
    Alternative(
        "when cached",
        (
            _PLAIN,
            Step(IMAGE, _rootfs("shift", "{cache}")),
            _COPY,
            _run("{instance}", "chown"),
        ),
    ),
    Alternative("at boot", (_PLAIN, _COPY, _run("{instance}", "chown"))),
    Alternative(
        "never: idmapped", (_PLAIN, _COPY, _run("{instance}", "idmapped"))
    ),
    Alternative("never: overlay", (_PLAIN, _run("{cache}", "overlay"))),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step took.

    :param when: of :class:`Step`.
    :param command: as a user would type it.
    :param seconds: one for each round.
    """

    when: str
    command: str
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Account:
    """What an alternative took.

    :param name: of :class:`Alternative`.
    :param costs: of each step.
    :param disk: bytes on disk for one more container, started once.
    """

    name: str
    costs: tuple[Cost, ...]
    disk: int

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Account:
        """What :meth:`to_json` gave."""
        costs = (
            Cost(each["when"], each["command"], tuple(each["seconds"]))
            for each in plain["costs"]
        )
        return cls(plain["name"], tuple(costs), plain["disk"])

    def to_json(self) -> dict[str, Any]:
        """All of it, in plain types."""
        return asdict(self)

    def total(self, when: str) -> tuple[float, ...]:
        """Seconds of all steps of a kind, for each round."""
        steps = [each.seconds for each in self.costs if each.when == when]
        return tuple(map(sum, zip(*steps, strict=True)))


class Places:
    """Where the steps of one journey find and leave their files.

    Nothing is removed until all are done: making files can be slow for minutes
    after others were deleted.

    :param image: gives the archive.
    :param name: name of the container.
    """

    def __init__(self, image: Image, scratch: Scratch, name: str) -> None:
        top = scratch.closed / name
        top.mkdir(mode=0o700)
        self._state = scratch.state_path("alternatives")
        self._words = {
            "archive": str(image.archive),
            "shifted": f"{top}/shifted.tar.zst",
            "tree": f"{top}/tree",
            "cache": f"{top}/cache",
            "instance": f"{top}/instance",
            "name": name,
        }
        self._config = top / "lxc-userns.conf"
        self._config.write_text(
            f"[libvirt]\nuid_maps = {id_map_text()}\n"
            f"gid_maps = {id_map_text()}\n"
            f"[lxc_userns]\nstate_path = {self._state}\n"
            f"run_path = {scratch.run_path('alternatives')}\n"
        )

    def fill(self, argv: tuple[str, ...]) -> list[str]:
        """A command as it is run here."""
        filled = [word.format_map(self._words) for word in argv]
        if filled[0] == _PROGRAM:
            program = Path(sys.executable).with_name(_PROGRAM)
            filled[:1] = [str(program), "--config-file", str(self._config)]
        return filled

    def disk(self) -> int:
        """Bytes that the container has on disk."""
        private = self._state / "private" / self._words["name"]
        paths = Path(self._words["instance"]), private
        return disk_bytes(*(path for path in paths if path.exists()))

    def take(self, step: Step) -> float:
        """Seconds of a step."""
        if step.argv[: len(EXTRACT)] == EXTRACT:
            Path(self.fill(step.argv)[-1]).mkdir(mode=0o755)
        os.sync()
        return clock_command(self.fill(step.argv))

    def travel(self, alternative: Alternative) -> Journey:
        """Take all steps, and stop the container."""
        seconds = [self.take(step) for step in alternative.steps]
        clock_command(self.fill(_STOP))
        return Journey(tuple(seconds), self.disk())

    def destroy(self) -> None:
        """Take the container away."""
        clock_command(self.fill(_DESTROY))


@dataclass(frozen=True, slots=True)
class Journey:
    """What one way took in one round.

    :param seconds: of each step.
    :param disk: of :class:`Account`.
    """

    seconds: tuple[float, ...]
    disk: int


def show(argv: tuple[str, ...]) -> str:
    """A command as a user would type it."""
    names = {
        "archive": "debian.tar.zst",
        "shifted": "shifted.tar.zst",
        "tree": "tree",
        "cache": "/srv/cache/debian",
        "instance": "/srv/web1",
        "name": "web1",
    }
    return shlex.join(word.format_map(names) for word in argv)


def measure(
    image: Image, scratch: Scratch, rounds: int, say: Say
) -> list[Account]:
    """Go all ways from the archive to a container, by turns."""
    journeys: list[list[Journey]] = [[] for _ in ALTERNATIVES]
    everywhere = []
    for number in range(1, rounds + 1):
        for which, each in enumerate(ALTERNATIVES):
            say(f"alternatives, round {number} of {rounds}: {each.name}")
            places = Places(image, scratch, f"web{number}-{which}")
            journeys[which].append(places.travel(each))
            everywhere.append(places)
    for places in everywhere:
        places.destroy()
    return list(map(_account, ALTERNATIVES, journeys))


def _account(alternative: Alternative, journeys: list[Journey]) -> Account:
    columns = zip(*(each.seconds for each in journeys), strict=True)
    costs = (
        Cost(step.when, show(step.argv), seconds)
        for step, seconds in zip(alternative.steps, columns, strict=True)
    )
    return Account(alternative.name, tuple(costs), journeys[0].disk)
