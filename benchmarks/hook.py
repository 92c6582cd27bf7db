# SPDX-License-Identifier: Apache-2.0
"""Starts by libvirt alone: bare, and with its hook installed."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from tests.functional.libvirt_daemon import AUTOSTARTED, Libvirtd

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
#: How many are started with libvirtd.
_MANY = 10
#: Seconds between two questions, and for what is waited for.
_PAUSE, _RELEASE = 0.005, 30.0
_MOUNTS = Path("/proc/self/mountinfo")


def measure(scratch: Scratch, rounds: int) -> Iterator[Cell]:
    """Start and end containers in each way, by turns."""
    if not in_private_libvirtd():
        print("hook: left out, there is no private libvirtd")
        return
    program = str(Path(sys.executable).with_name("lxc-userns"))
    argv = [program, "--config-file", scratch.configure("hook")]
    numbered = [(name, n) for n in range(_MANY) for name in (_PLAIN, _MARKED)]
    with libvirt.open("lxc:///") as connection:
        for name, number in numbered:
            tree = scratch.closed / f"busybox{number}"
            if name == _PLAIN:
                images.make_busybox(tree)
            text = _XML.format(name=f"{name}{number}", tree=tree)
            connection.defineXML(text)
    try:
        for name in _names(_MARKED):
            run([*argv, "domain", "convert", name, "--in-place"])
        run([*argv, "host", "hook", "install"])
        # What is kept of a configuration is that of a file which has settled.
        time.sleep(3)
        yield from _measure_virsh(scratch.path / "hook", rounds)
        yield from _measure_autostart(rounds)
    finally:
        run([*argv, "host", "hook", "remove"])
        with libvirt.open("lxc:///") as connection:
            for name, number in numbered:
                connection.lookupByName(f"{name}{number}").undefine()


def _names(name: str) -> list[str]:
    return [f"{name}{number}" for number in range(_MANY)]


def _choose(row: str) -> list[str]:
    """Return the domains of a row, with the hook there or not."""
    is_marked, is_hooked = _ROWS[row]
    # libvirtd looks at each call whether it is executable.
    hook.HOOK.chmod(0o755 if is_hooked else 0o644)
    return _names(_MARKED if is_marked else _PLAIN)


def _measure_virsh(views: Path, rounds: int) -> Iterator[Cell]:
    """Start and destroy a container of one tree."""
    ends: Times = {row: [] for row in _ROWS}
    waits: Times = {row: [] for row in _ROWS}

    def take(row: str) -> float:
        name = _choose(row)[0]
        seconds = clock(run, ["virsh", "-c", "lxc:///", "start", name])
        with_waits = Waits()
        with libvirt.open("lxc:///") as connection:
            end = with_waits(connection.lookupByName(name).destroy)
        _wait_until(lambda: f" {views}/" not in _MOUNTS.read_text())
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


def _measure_autostart(rounds: int) -> Iterator[Cell]:
    """Have libvirtd start several containers as at a boot of the host."""
    libvirtd = Libvirtd.of_here()

    def take(row: str) -> float:
        names = _choose(row)
        with _domains(names) as domains:
            for domain in domains:
                domain.setAutostart(True)
        libvirtd.end()
        AUTOSTARTED.unlink(missing_ok=True)
        seconds = clock(_start, libvirtd, names)
        with _domains(names) as domains:
            for domain in domains:
                domain.setAutostart(False)
                domain.destroy()
        return seconds

    takers = {row: partial(take, row) for row in _ROWS}
    found = take_turns(takers, rounds, "autostart")
    for row, seconds in found.items():
        yield cell("autostart", row, "until the last", values=seconds, by=1000)
    yield from ratios("autostart", found)


def _start(libvirtd: Libvirtd, names: list[str]) -> None:
    """Start libvirtd, and wait until all containers run."""
    libvirtd.start()
    with _domains(names) as domains:
        _wait_until(lambda: all(each.isActive() for each in domains))


@contextmanager
def _domains(names: list[str]) -> Iterator[list[libvirt.virDomain]]:
    """Connect to libvirtd as long as some domains are needed."""
    with libvirt.open("lxc:///") as connection:
        yield [connection.lookupByName(name) for name in names]


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


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _RELEASE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("what libvirtd and the hook do takes too long")
        time.sleep(_PAUSE)
