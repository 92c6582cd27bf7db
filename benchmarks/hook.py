# SPDX-License-Identifier: Apache-2.0
"""Starts by libvirt alone: bare, and with its hook installed."""

import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain

import libvirt

from benchmarks.measure import clock, run, take_turns
from benchmarks.scratch import Scratch, argv
from benchmarks.tables import PLAN, Cell, ratios, timed
from lxc_userns.host import hook
from tests.functional import images
from tests.functional.command_line import CommandLine
from tests.functional.foreign import PRIVNET, XML
from tests.functional.libvirt_daemon import AUTOSTARTED, Libvirtd
from tests.waiting import wait_for

_URI, _ALL = "lxc:///", range(10)
#: Domains by whether they are converted; all of a kind start with libvirtd.
_DOMAINS = {
    False: [f"bench-plain{number}" for number in _ALL],
    True: [f"bench-marked{number}" for number in _ALL],
}
_REST = {
    "script": "trap exit TERM; sleep 1000 &amp; wait",
    "features": PRIVNET,
    **dict.fromkeys(("idmap", "devices", "last"), ""),
}
#: Whether the domain is converted, and whether the hook is there.
_ROWS: dict[str, tuple[bool, bool]] = PLAN["hook"]
#: Seconds between two questions.
_PAUSE = 0.005


def measure(scratch: Scratch, asked: Namespace) -> Iterator[Cell]:
    """Start and end containers in each way, by turns."""
    cli = scratch.configure("hook")
    with libvirt.open(_URI) as connection:
        for number in _ALL:
            tree = scratch.closed / f"busybox{number}"
            images.make_busybox(tree)
            for names in _DOMAINS.values():
                words = {"name": names[number], "rootfs": tree}
                connection.defineXML(XML.format(**words, **_REST))
    try:
        for name in _DOMAINS[True]:
            run(argv(cli, "domain", "convert", name, "--in-place"))
        run(argv(cli, "host", "hook", "install"))
        # What is kept of a configuration is that of a file which has settled.
        time.sleep(3)
        yield from _measure_virsh(cli, asked.rounds)
        yield from _measure_autostart(asked.rounds)
    finally:
        run(argv(cli, "host", "hook", "remove"))
        with _looked_up([*chain(*_DOMAINS.values())]) as domains:
            for domain in domains:
                domain.undefine()


@contextmanager
def _looked_up(names: list[str]) -> Iterator[list[libvirt.virDomain]]:
    """Connect to libvirtd as long as some domains are needed."""
    with libvirt.open(_URI) as connection:
        yield [connection.lookupByName(name) for name in names]


def _choose(row: str) -> list[str]:
    """Return the domains of a row, with the hook there or not."""
    is_marked, is_hooked = _ROWS[row]
    # libvirtd looks at each call whether it is executable.
    hook.HOOK.chmod(0o755 if is_hooked else 0o644)
    return _DOMAINS[is_marked]


def _measure_virsh(cli: CommandLine, rounds: int) -> Iterator[Cell]:
    """Start and destroy a container of one tree."""

    def take(row: str) -> tuple[float, float, float]:
        name = _choose(row)[0]
        start = clock(run, ["virsh", "-c", _URI, "start", name])
        destroy, wait = _destroy(name)
        wait_for(lambda: not cli.mounts())
        return start, destroy, wait

    takers = {row: partial(take, row) for row in _ROWS}
    found = take_turns(takers, rounds, "hook", warm_up=True)
    starts = {row: [each[0] for each in found[row]] for row in found}
    yield from timed("hook", starts, "start")
    yield from ratios("hook", starts)
    for row, turns in found.items():
        _, ends, waits = map(list, zip(*turns, strict=True))
        yield from timed("hook", {row: ends}, "destroy")
        yield from timed("hook", {row: waits}, "libvirtd is silent")


def _destroy(name: str) -> tuple[float, float]:
    """Return the seconds of it, and the longest that somebody else waits.

    That one asks libvirtd for its version all the time.
    """
    longest = 0.0
    with (
        _looked_up([name]) as (domain,),
        libvirt.open(_URI) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        ended = pool.submit(clock, domain.destroy)
        while not ended.done():
            longest = max(longest, clock(other.getLibVersion))
            time.sleep(_PAUSE)
        return ended.result(), longest


def _measure_autostart(rounds: int) -> Iterator[Cell]:
    """Have libvirtd start several containers as at a boot of the host."""
    libvirtd = Libvirtd.of_here()

    def start(names: list[str]) -> None:
        libvirtd.start()
        with _looked_up(names) as domains:
            wait_for(lambda: all(each.isActive() for each in domains))

    def take(row: str) -> float:
        names = _choose(row)
        with _looked_up(names) as domains:
            for domain in domains:
                domain.setAutostart(True)
        libvirtd.end()
        AUTOSTARTED.unlink(missing_ok=True)
        seconds = clock(start, names)
        with _looked_up(names) as domains:
            for domain in domains:
                domain.setAutostart(False)
                domain.destroy()
        return seconds

    takers = {row: partial(take, row) for row in _ROWS}
    found = take_turns(takers, rounds, "autostart")
    yield from timed("autostart", found, "until the last")
    yield from ratios("autostart", found)
