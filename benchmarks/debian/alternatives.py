# SPDX-License-Identifier: Apache-2.0
"""When owners can be shifted, and what each way costs, step by step.

All steps are commands that a user could type.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import id_map_text
from benchmarks.debian.image import CREATE, EXTRACT, Image
from benchmarks.measure import Say, clock_command
from benchmarks.scratch import Scratch, disk_bytes, remove

#: When a step is done: by whoever makes the image, for each image on a host,
#: for each container.
CREATOR, IMAGE, CONTAINER = "creator", "image", "container"
_PROGRAM = "lxc-userns"
_NAME = "web1"
_DESTROY = (_PROGRAM, "container", "destroy", _NAME)


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
    argv = (_PROGRAM, "container", "run", _NAME, "--rootfs", rootfs)
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
    """Where the steps find and leave their files.

    :param image: gives the archive.
    """

    def __init__(self, image: Image, scratch: Scratch) -> None:
        top = scratch.closed / "alternatives"
        top.mkdir(mode=0o700)
        self.tree, self.cache = top / "tree", top / "cache"
        self.instance = top / "instance"
        self._shifted = top / "shifted.tar.zst"
        self._archive = image.archive
        self._state = scratch.state_path("alternatives")
        self._config = top / "lxc-userns.conf"
        self._config.write_text(
            f"[libvirt]\nuid_maps = {id_map_text()}\n"
            f"gid_maps = {id_map_text()}\n"
            f"[lxc_userns]\nstate_path = {self._state}\n"
            f"run_path = {scratch.run_path('alternatives')}\n"
        )

    def fill(self, argv: tuple[str, ...]) -> list[str]:
        """A command as it is run here."""
        places = {
            "archive": self._archive,
            "shifted": self._shifted,
            "tree": self.tree,
            "cache": self.cache,
            "instance": self.instance,
        }
        filled = [word.format_map(places) for word in argv]
        if filled[0] == _PROGRAM:
            program = Path(sys.executable).with_name(_PROGRAM)
            filled[:1] = [str(program), "--config-file", str(self._config)]
        return filled

    def disk(self) -> int:
        """Bytes that one container has on disk."""
        paths = [self.instance, self._state / "private" / _NAME]
        return disk_bytes(*(path for path in paths if path.exists()))

    def make_targets(self, argv: tuple[str, ...]) -> None:
        """Make the directory that tar extracts to."""
        if argv[: len(EXTRACT)] == EXTRACT:
            Path(self.fill(argv)[-1]).mkdir(mode=0o755)

    def clear(self) -> None:
        """Remove what the steps left."""
        for path in (self.tree, self.cache, self.instance, self._shifted):
            remove(path)


def show(argv: tuple[str, ...]) -> str:
    """A command as a user would type it."""
    names = {
        "archive": "debian.tar.zst",
        "shifted": "shifted.tar.zst",
        "tree": "tree",
        "cache": "/srv/cache/debian",
        "instance": f"/srv/{_NAME}",
    }
    return shlex.join(word.format_map(names) for word in argv)


def measure(
    image: Image, scratch: Scratch, rounds: int, say: Say
) -> list[Account]:
    """Go all ways from the archive to a container, by turns."""
    places = Places(image, scratch)
    rows: dict[str, list[list[float]]] = {
        each.name: [] for each in ALTERNATIVES
    }
    disk: dict[str, int] = {}
    for number in range(1, rounds + 1):
        for each in ALTERNATIVES:
            say(f"alternatives, round {number} of {rounds}: {each.name}")
            rows[each.name].append(list(_take(each, places)))
            disk[each.name] = places.disk()
            clock_command(places.fill(_DESTROY))
            places.clear()
    return [
        _account(each, rows[each.name], disk[each.name])
        for each in ALTERNATIVES
    ]


def _take(alternative: Alternative, places: Places) -> Iterator[float]:
    for step in alternative.steps:
        places.make_targets(step.argv)
        os.sync()
        yield clock_command(places.fill(step.argv))


def _account(
    alternative: Alternative, rows: list[list[float]], disk: int
) -> Account:
    columns = zip(*rows, strict=True)
    costs = (
        Cost(step.when, show(step.argv), tuple(seconds))
        for step, seconds in zip(alternative.steps, columns, strict=True)
    )
    return Account(alternative.name, tuple(costs), disk)
