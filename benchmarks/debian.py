# SPDX-License-Identifier: Apache-2.0
"""Containers from a Debian system: unpacked, shared, started."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import compress, count
from pathlib import Path

import pytest

from benchmarks.measure import Times, clock, run, say, take_turns
from benchmarks.scratch import HOST, ID_MAPS, Scratch, disk_bytes
from benchmarks.tables import PLAN, Cell, cell, ratios, single
from lxc_userns import rootfs
from lxc_userns.containers import Containers, ContainerSpec
from tests.functional import images
from tests.functional.capabilities import in_private_libvirtd

_NAME, _MIB, _COPIES, _JOURNEYS = "bench", 1 << 20, 3, 3


def measure(scratch: Scratch, views: int, rounds: int) -> Iterator[Cell]:
    """Measure all that is done with a Debian system.

    :param views: how many overlays share it.
    """
    say("making a Debian system")
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
    yield from _measure_unpacking(archive, scratch, rounds)
    yield from _measure_sharing(tree, scratch, views)
    if not in_private_libvirtd():
        print("containers: left out, there is no private libvirtd")
        return
    yield from _measure_starts(tree, scratch, rounds)
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
        if owner != (HOST if shifted else 0):
            raise RuntimeError(f"{target}/etc/passwd belongs to {owner}")
        return seconds

    takers: dict[str, Callable[[], float]] = {
        "tar --extract": lambda: clock(_extract, archive, next(places)),
        "rootfs.unpack, shifted": partial(unpack, True),
        "rootfs.unpack, unshifted": partial(unpack, False),
    }
    # The archive has to be in the page cache, and all modules loaded.
    for taker in takers.values():
        taker()
    found = take_turns(takers, rounds, "unpacking")
    for name, seconds in found.items():
        yield cell("unpacking", name, "seconds", values=seconds)
    yield from ratios("unpacking", found)


def _measure_sharing(
    tree: Path, scratch: Scratch, views: int
) -> Iterator[Cell]:
    """Make so many views, which all stay mounted; then copies."""
    states = [scratch.closed / f"state{number}" for number in range(views)]
    points = [scratch.view(f"view{number}") for number in range(views)]
    before = _used_bytes(scratch)
    seconds = []
    for state, point in zip(states, points, strict=True):
        say(f"{point.name} of {views}")
        seconds.append(
            clock(rootfs.mount_overlay, tree, state, point, ID_MAPS)
        )
    disk = disk_bytes(*states), _used_bytes(scratch) - before
    yield from _series(f"overlay view, of {views}", seconds, *disk)
    for point in points:
        rootfs.unmount(point)
    copies = [scratch.closed / f"copy-{number}" for number in range(_COPIES)]
    before = _used_bytes(scratch)
    copied, shifted = [], []
    for copy in copies:
        say(f"copying the image to {copy.name}")
        os.sync()
        # A filesystem that could share the blocks is not to do it.
        argv = ["cp", "-a", "--reflink=never", str(tree), str(copy)]
        copied.append(clock(run, argv))
        shifted.append(clock(rootfs.shift, copy, ID_MAPS))
    disk = disk_bytes(*copies), _used_bytes(scratch) - before
    yield from _series("cp -a", copied)
    yield from _series("rootfs.shift of the copy", shifted)
    both = [*map(sum, zip(copied, shifted, strict=True))]
    yield from _series(f"copy and shift, of {_COPIES}", both, *disk)


def _used_bytes(scratch: Scratch) -> int:
    run(["sync"])
    return shutil.disk_usage(scratch.path).used


def _series(row: str, times: list[float], *disk: int) -> Iterator[Cell]:
    yield cell("sharing", row, "ms", values=times, by=1000)
    ends = {"first": times[0] * 1000, "last": times[-1] * 1000}
    sizes = [size / len(times) / _MIB for size in disk]
    names = ("MiB_on_disk", "MiB_used")
    yield from single(
        "sharing", row, **ends, **dict(zip(names, sizes, strict=False))
    )


#: What is told apart of a start; the rest is locks, records and looking up.
PARTS = PREPARE, DEFINE, START, VERIFY = "prepare", "define", "start", "verify"


def watch(target: object, name: str, part: str, into: Times) -> None:
    """Take the time of a method of an object whenever it is called."""
    method: Callable[..., object] = getattr(target, name)

    def call(*arguments: object, **options: object) -> object:
        results: list[object] = []
        bound = partial(method, *arguments, **options)
        into[part] = [clock(lambda: results.append(bound()))]
        return results[0]

    setattr(target, name, call)


def _measure_starts(
    tree: Path, scratch: Scratch, rounds: int
) -> Iterator[Cell]:
    """Start a container in each way, by turns."""
    times: Times = {}
    manager, services = scratch.make_manager("starts")
    for name in (PREPARE, VERIFY):
        watch(manager, name, name, times)
    for name in (DEFINE, START):
        watch(services.guests, name, name, times)
    containers = Containers(manager, services)

    def take(strategy: str, is_known: bool) -> Times:
        spec = ContainerSpec(_NAME, str(tree), strategy=strategy)
        call = partial(containers.run, spec)
        if is_known:
            call()
            containers.stop(_NAME, 0)
            call = partial(containers.start, _NAME)
        os.sync()
        times.clear()
        total = clock(call)
        containers.destroy(_NAME)
        # A container that is known is not defined again.
        return {DEFINE: [0.0], **times, "total": [total]}

    found: dict[str, list[Times]] = {name: [] for name in PLAN["starts"]}
    # libvirt and we load what we need.
    take("idmapped", False)
    for number in range(1, rounds + 1):
        for name, way in PLAN["starts"].items():
            say(f"container, round {number} of {rounds}: {name}")
            found[name].append(take(*way))
        rootfs.unshift(tree)
    for name, runs in found.items():
        parts = {part: [each[part][0] for each in runs] for part in runs[0]}
        yield from sum_up(name, parts)


def sum_up(row: str, parts: Times) -> Iterator[Cell]:
    """Return the parts of a start, and ours beside libvirt's start."""
    runs = [*zip(*(parts[name] for name in ("total", *PARTS)), strict=True)]
    parts["rest"] = [total - sum(each) for total, *each in runs]
    for part in (*PARTS, "rest"):
        names = "starts", row, part
        yield cell(*names, values=parts[part], by=1000, spread=False)
    ours = [total - start for total, _, _, start, _ in runs]
    yield cell("starts", row, "all but start", values=ours, by=1000)
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
    program = Path(sys.executable).with_name("lxc-userns")
    config = scratch.configure("alternatives")
    words = {**_TAR, "program": f"{program} --config-file {config}"}
    seconds: dict[str, list[list[float]]] = {name: [] for name in ALTERNATIVES}
    disk: dict[str, int] = {}
    for number in range(_JOURNEYS):
        for which, (name, steps) in enumerate(ALTERNATIVES.items()):
            say(f"alternatives, round {number + 1} of {_JOURNEYS}: {name}")
            container = f"web{number}-{which}"
            top = scratch.closed / container
            top.mkdir(mode=0o700)
            places = {each: str(top / each) for each in PLAN["shown"]}
            places |= {**words, "archive": str(archive), "name": container}
            seconds[name].append([_take(step, places) for step in steps])
            _take("- {program} container stop {name} --timeout 0", places)
            state = scratch.state_path("alternatives") / "private" / container
            paths = filter(Path.exists, (top / "instance", state))
            disk.setdefault(name, disk_bytes(*paths))
    # Nothing is removed until all are done: making files can be slow for
    # minutes after others were deleted.
    for top in scratch.closed.glob("web*"):
        step = "- {program} container destroy {name}"
        _take(step, {**words, "name": top.name})
    yield from account(seconds, disk)


def _take(step: str, places: dict[str, str]) -> float:
    _, *argv = shlex.split(step.format_map(places))
    if "--extract" in argv:
        Path(argv[-1]).mkdir(mode=0o755)
    os.sync()
    return clock(run, argv)


def account(
    seconds: dict[str, list[list[float]]], disk: dict[str, int]
) -> Iterator[Cell]:
    """Return what each alternative takes in all, and what its steps do.

    :param seconds: of each step, for each round.
    :param disk: bytes for one more container, started once.
    """
    for name, rounds in seconds.items():
        for when in ("creator", "image", "container"):
            done = [step.startswith(when) for step in ALTERNATIVES[name]]
            sums = [sum(compress(times, done)) for times in rounds]
            names = "alternatives", name, f"once per {when}"
            if any(done):
                yield cell(*names, values=sums, spread=False)
        size = {"MiB_per_container": disk[name] / _MIB}
        yield from single("alternatives", name, **size)
        columns = zip(*rounds, strict=True)
        for step, times in zip(ALTERNATIVES[name], columns, strict=True):
            yield cell(f"step: {name}", show(step), "seconds", values=times)
