# SPDX-License-Identifier: Apache-2.0
"""Starts by virsh alone: bare, and with libvirt's hook installed."""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event, Thread

import libvirt

from benchmarks.measure import Times, clock, run, take_turns
from benchmarks.scratch import Scratch
from benchmarks.tables import PLAN, Cell, cell, ratios
from lxc_userns.host import hook
from tests.functional import images
from tests.functional.capabilities import in_private_libvirtd

_PLAIN, _MARKED = "bench-plain", "bench-marked"
_XML = """\
<domain type='lxc'>
  <name>{name}</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type>exe</type><init>/bin/sh</init>
    <initarg>-c</initarg>
    <initarg>trap exit TERM; sleep 1000 &amp; wait</initarg>
  </os>
  <features><privnet/></features>
  <devices>
    <filesystem type='mount'>
      <source dir='{tree}'/><target dir='/'/>
    </filesystem>
    <console type='pty'/>
  </devices>
</domain>
"""
#: Whether the domain is converted, and whether the hook is there.
_ROWS: dict[str, list[bool]] = PLAN["hook"]
#: Seconds between two questions to libvirtd, and for the end of a release.
_PAUSE, _RELEASE = 0.005, 30.0


def measure(scratch: Scratch, rounds: int) -> Iterator[Cell]:
    """Start and destroy a container of one tree in each way, by turns."""
    if not in_private_libvirtd():
        print("hook: left out, there is no private libvirtd")
        return
    tree = scratch.closed / "busybox"
    images.make_busybox(tree)
    program = str(Path(sys.executable).with_name("lxc-userns"))
    argv = [program, "--config-file", scratch.configure("hook")]
    connection = libvirt.open("lxc:///")
    domains = [
        connection.defineXML(_XML.format(name=name, tree=tree))
        for name in (_PLAIN, _MARKED)
    ]
    try:
        run([*argv, "domain", "convert", _MARKED, "--in-place"])
        run([*argv, "host", "hook", "install"])
        # What is kept of a configuration is that of a file which has settled.
        time.sleep(3)
        yield from _compare(connection, scratch.path / "hook", rounds)
    finally:
        run([*argv, "host", "hook", "remove"])
        for domain in domains:
            domain.undefine()
        connection.close()


def _compare(
    connection: libvirt.virConnect, views: Path, rounds: int
) -> Iterator[Cell]:
    ends: Times = {row: [] for row in _ROWS}
    waits: Times = {row: [] for row in _ROWS}

    def take(row: str) -> float:
        is_marked, is_hooked = _ROWS[row]
        name = _MARKED if is_marked else _PLAIN
        # libvirtd looks at each call whether it is executable.
        hook.HOOK.chmod(0o755 if is_hooked else 0o644)
        seconds = clock(run, ["virsh", "-c", "lxc:///", "start", name])
        with_waits = Waits()
        end = with_waits(connection.lookupByName(name).destroy)
        _wait_until(lambda: not _is_mounted(views))
        ends[row].append(end)
        waits[row].append(with_waits.longest)
        return seconds

    for row in _ROWS:
        take(row)
    for times in (ends, waits):
        times.update({row: [] for row in _ROWS})
    takers = {row: partial(take, row) for row in _ROWS}
    found = take_turns(takers, rounds, "hook")
    for row, seconds in found.items():
        yield cell("hook", row, "start", values=seconds, by=1000)
    yield from ratios("hook", found)
    for row in _ROWS:
        yield cell("hook", row, "destroy", values=ends[row], by=1000)
        yield cell(
            "hook", row, "libvirtd is silent", values=waits[row], by=1000
        )


class Waits:
    """Waits of somebody who asks libvirtd for its version all the time."""

    def __init__(self) -> None:
        self.longest = 0.0

    def __call__(
        self, call: Callable[..., object], *arguments: object
    ) -> float:
        """Return the seconds that a call takes, and note the longest wait."""
        done = Event()
        asker = Thread(target=self._ask, args=(done,))
        asker.start()
        try:
            return clock(call, *arguments)
        finally:
            done.set()
            asker.join()

    def _ask(self, done: Event) -> None:
        connection = libvirt.open("lxc:///")
        while not done.is_set():
            self.longest = max(self.longest, clock(connection.getLibVersion))
            time.sleep(_PAUSE)
        connection.close()


def _is_mounted(views: Path) -> bool:
    text = Path("/proc/self/mountinfo").read_text()
    return f" {views}/{_MARKED}/" in text


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _RELEASE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the hook does not unmount the view")
        time.sleep(_PAUSE)
