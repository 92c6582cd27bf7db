# SPDX-License-Identifier: Apache-2.0
"""Containers from a Debian system: unpacked, shared, started."""

import os
import shlex
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import compress, count
from math import fsum
from operator import sub
from pathlib import Path

import pytest

from benchmarks.measure import Times, clock, run, take_turns
from benchmarks.scratch import ID_MAPS, Scratch, argv, disk_bytes
from benchmarks.tables import PLAN, Cell, cell, ratios, single, timed
from lxc_userns import rootfs
from lxc_userns.containers import Containers, ContainerSpec
from lxc_userns.exceptions import RootfsError
from tests.functional import images
from tests.functional.capabilities import in_private_libvirtd
from tests.functional.command_line import BASE

_NAME, _MIB, _COPIES, _JOURNEYS = "bench", 1 << 20, 3, 3


def measure(scratch: Scratch, asked: Namespace) -> Iterator[Cell]:
    """Measure all that is done with a Debian system."""
    try:
        archive = images.make_debian("sysvinit")
    except pytest.skip.Exception as err:
        print(f"left out, what needs a Debian system: {err}")
        return
    tree = scratch.closed / "debian"
    _extract(archive, tree)
    yield from single(
        *("image", "sysvinit"),
        inodes=int(run(["du", "--inodes", "-s", str(tree)]).split()[0]),
        MiB_on_disk=disk_bytes(tree) / _MIB,
        MiB_as_archive=archive.stat().st_size / _MIB,
    )
    yield from _measure_unpacking(archive, scratch, asked.rounds)
    yield from _measure_sharing(tree, scratch, asked.views)
    if not in_private_libvirtd():
        print("containers: left out, there is no private libvirtd")
        return
    yield from _measure_starts(tree, scratch, asked.rounds)
    yield from _measure_alternatives(archive, scratch)


def _extract(archive: Path, tree: Path) -> None:
    tree.mkdir(mode=0o755)
    argv = [*images.TAR, "--extract", "--preserve-permissions"]
    run([*argv, "--file", str(archive), "-C", str(tree)])


def _measure_unpacking(
    archive: Path, scratch: Scratch, rounds: int
) -> Iterator[Cell]:
    """Let tar and us unpack the same archive, by turns."""
    # Never to the same place, and nothing is removed meanwhile: making files
    # can be slow for minutes after others were deleted.
    places = (scratch.closed / f"unpacked-{each}" for each in count())

    def unpack(shifted: bool) -> float:
        call = partial(rootfs.unpack, shifted=shifted)
        seconds = clock(call, archive, target := next(places), ID_MAPS)
        owner = (target / "etc/passwd").stat().st_uid
        if owner != (BASE if shifted else 0):
            raise RuntimeError(f"{target}/etc/passwd belongs to {owner}")
        return seconds

    takers: dict[str, Callable[[], float]] = {
        "tar --extract": lambda: clock(_extract, archive, next(places)),
        "rootfs.unpack, shifted": partial(unpack, True),
        "rootfs.unpack, unshifted": partial(unpack, False),
    }
    found = take_turns(takers, rounds, "unpacking", warm_up=True)
    yield from timed("unpacking", found, "seconds", by=1)
    yield from ratios("unpacking", found)


def _measure_sharing(
    tree: Path, scratch: Scratch, views: int
) -> Iterator[Cell]:
    """Make so many views, which all stay mounted; then copies."""
    states = [scratch.closed / f"state{number}" for number in range(views)]
    points = [scratch.view(state.name) for state in states]
    left = zip(states, points, strict=True)
    row, before = f"overlay view, of {views}", _used_bytes(scratch)

    def mount() -> float:
        return clock(rootfs.mount_overlay, tree, *next(left), ID_MAPS)

    yield from _series(take_turns({row: mount}, views, "sharing"))
    yield from _sizes(row, states, _used_bytes(scratch) - before)
    for point in points:
        rootfs.unmount(point)
    row, before = f"copy and shift, of {_COPIES}", _used_bytes(scratch)
    copies = [scratch.closed / f"copy-{number}" for number in range(_COPIES)]
    new, made = iter(copies), iter(copies)
    # A filesystem that could share the blocks is not to do it.
    argv = ["cp", "-a", "--reflink=never", str(tree)]
    takers = {
        "cp -a": lambda: clock(run, [*argv, str(next(new))]),
        "rootfs.shift of the copy": lambda: clock(
            rootfs.shift, next(made), ID_MAPS
        ),
    }
    found = take_turns(takers, _COPIES, "sharing")
    found[row] = [*map(fsum, zip(*found.values(), strict=True))]
    yield from _series(found)
    yield from _sizes(row, copies, _used_bytes(scratch) - before)


def _used_bytes(scratch: Scratch) -> int:
    run(["sync"])
    return shutil.disk_usage(scratch.path).used


def _series(times: Times) -> Iterator[Cell]:
    yield from timed("sharing", times)
    for row, seconds in times.items():
        ends = {"first": seconds[0] * 1000, "last": seconds[-1] * 1000}
        yield from single("sharing", row, **ends)


def _sizes(row: str, trees: Sequence[Path], used: int) -> Iterator[Cell]:
    sizes = {"MiB_on_disk": disk_bytes(*trees), "MiB_used": used}
    each = {name: size / len(trees) / _MIB for name, size in sizes.items()}
    yield from single("sharing", row, **each)


#: What is told apart of a start; the rest is locks, records and looking up.
PARTS = PREPARE, DEFINE, START, VERIFY = "prepare", "define", "start", "verify"
Parts = dict[str, float]


def watch(target: object, name: str, into: Parts) -> None:
    """Take the time of a method of an object whenever it is called."""
    method = getattr(target, name)

    def call(*arguments: object, **options: object) -> object:
        begin = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            into[name] = time.perf_counter() - begin

    setattr(target, name, call)


def _measure_starts(
    tree: Path, scratch: Scratch, rounds: int
) -> Iterator[Cell]:
    """Start a container in each way, by turns."""
    parts: Parts = {}
    cli = scratch.configure("starts")
    manager, services = cli.manager(), cli.services()
    for name in (PREPARE, VERIFY):
        watch(manager, name, parts)
    for name in (DEFINE, START):
        watch(services.guests, name, parts)
    containers = Containers(manager, services)

    def take(strategy: str, is_known: bool) -> Parts:
        if strategy != "chown":
            # The last ways of a round have shifted it; those before have not.
            with suppress(RootfsError):
                rootfs.unshift(tree)
        spec = ContainerSpec(_NAME, str(tree), strategy=strategy)
        call = partial(containers.run, spec)
        if is_known:
            call()
            containers.stop(_NAME, 0)
            call = partial(containers.start, _NAME)
        os.sync()
        # One that is known is not defined again.
        parts[DEFINE] = 0.0
        total = clock(call)
        containers.destroy(_NAME)
        return {**parts, "total": total}

    takers = {row: partial(take, *way) for row, way in PLAN["starts"].items()}
    found = take_turns(takers, rounds, "container", warm_up=True)
    for row, turns in found.items():
        yield from sum_up(row, turns)


def sum_up(row: str, turns: Sequence[Parts]) -> Iterator[Cell]:
    """Return the parts of a start, and ours beside libvirt's start."""
    parts = {part: [each[part] for each in turns] for part in PARTS}
    told = [sum(each[part] for part in PARTS) for each in turns]
    total = [each["total"] for each in turns]
    parts["rest"] = [*map(sub, total, told)]
    for part, seconds in parts.items():
        names = "starts", row, part
        yield cell(*names, values=seconds, by=1000, spread=False)
    ours = [*map(sub, total, parts[START])]
    yield from timed("starts", {row: ours}, "all but start")
    _, ratio = ratios("starts", {"": parts[START], row: ours})
    yield ratio


#: When owners can be shifted, step by step.
ALTERNATIVES: dict[str, list[str]] = PLAN["alternatives"]
_TAR = {"tar": shlex.join(images.TAR)}


def show(step: str) -> str:
    """Return a step as a user would type it, after how often it is done."""
    when, _, command = step.format_map(_TAR | PLAN["shown"]).partition(" ")
    return f"{when} ``{command}``"


def _measure_alternatives(archive: Path, scratch: Scratch) -> Iterator[Cell]:
    """Go all ways from the archive to a container, by turns."""
    cli = scratch.configure("alternatives")
    words = {**_TAR, "program": shlex.join(argv(cli)), "archive": archive}
    names = (f"web{number}" for number in count())
    disk: dict[str, int] = {}

    def take(way: str) -> list[float]:
        name = next(names)
        top = scratch.closed / name
        top.mkdir(mode=0o700)
        places = {each: top / each for each in PLAN["shown"]}
        places |= {**words, "name": name}
        seconds = [_take(step, places) for step in ALTERNATIVES[way]]
        _take("- {program} container stop {name} --timeout 0", places)
        paths = (top / "instance", cli.state / "private" / name)
        disk[way] = disk_bytes(*filter(Path.exists, paths))
        return seconds

    takers = {way: partial(take, way) for way in ALTERNATIVES}
    found = take_turns(takers, _JOURNEYS, "alternatives")
    # Nothing is removed until all are done: making files can be slow for
    # minutes after others were deleted.
    for top in scratch.closed.glob("web*"):
        step = "- {program} container destroy {name}"
        _take(step, {**words, "name": top.name})
    yield from account(found, disk)


def _take(step: str, places: Mapping[str, object]) -> float:
    _, *argv = shlex.split(step.format_map(places))
    if "--extract" in argv:
        Path(argv[-1]).mkdir(mode=0o755)
    os.sync()
    return clock(run, argv)


def account(
    seconds: Mapping[str, Sequence[list[float]]], disk: Mapping[str, int]
) -> Iterator[Cell]:
    """Return what each alternative takes in all, and what its steps do.

    :param seconds: of each step, for each round.
    :param disk: bytes for one more container, started once.
    """
    for name, rounds in seconds.items():
        steps = ALTERNATIVES[name]
        for when in ("creator", "image", "container"):
            done = [step.startswith(when) for step in steps]
            sums = [sum(compress(times, done)) for times in rounds]
            names = "alternatives", name, f"once per {when}"
            if any(done):
                yield cell(*names, values=sums, spread=False)
        size = {"MiB_per_container": disk[name] / _MIB}
        yield from single("alternatives", name, **size)
        for step, times in zip(steps, zip(*rounds, strict=True), strict=True):
            yield cell(f"step: {name}", show(step), "seconds", values=times)
