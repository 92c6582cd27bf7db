# SPDX-License-Identifier: Apache-2.0
"""Commands on containers that run: one in a container, a check of many."""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.measure import clock, run, say, take_turns
from benchmarks.memory import highest
from benchmarks.scratch import Scratch
from benchmarks.tables import PLAN, Cell, cell, ratios, single
from lxc_userns.containers import ContainerSpec
from lxc_userns.containers.containers import Containers
from tests.functional import images
from tests.functional.capabilities import in_private_libvirtd

#: How many are verified.
_MANY = (1, 10, 50)
_INIT = ("/bin/sh", "-c", "trap exit TERM; sleep 1000 & wait")
#: Seconds between two looks at a process.
_PAUSE = 0.005


def measure(scratch: Scratch, rounds: int) -> Iterator[Cell]:
    """Start many containers of one tree, and look at what commands take."""
    if not in_private_libvirtd():
        print("running: left out, there is no private libvirtd")
        return
    tree = scratch.closed / "busybox"
    images.make_busybox(tree)
    manager, services = scratch.make_manager("running")
    containers = Containers(manager, services)
    program = str(Path(sys.executable).with_name("lxc-userns"))
    argv = [program, "--config-file", scratch.configure("running")]
    argv += ["container"]
    started = []
    try:
        for number in range(1, max(_MANY) + 1):
            say(f"container {number} of {max(_MANY)}")
            name = f"bench{number}"
            spec = ContainerSpec(name, str(tree), _INIT, strategy="overlay")
            containers.run(spec)
            started.append(name)
            if number == 1:
                with services.guests.init_process(name) as init:
                    yield from _measure_exec(name, str(init.pid), argv, rounds)
            if number in _MANY:
                yield from _measure_verify(str(number), argv, rounds)
    finally:
        for name in started:
            containers.destroy(name)


def _measure_exec(
    name: str, pid: str, ours: list[str], rounds: int
) -> Iterator[Cell]:
    """Run a command in a container in each way, by turns."""
    words = {"name": name, "pid": pid, "ours": shlex.join(ours)}
    argvs = {
        row: shlex.split(command.format_map(words))
        for row, command in PLAN["exec"].items()
    }
    takers = {row: partial(clock, run, argv) for row, argv in argvs.items()}
    for taker in takers.values():
        taker()
    found = take_turns(takers, rounds, "exec")
    for row, seconds in found.items():
        yield cell("exec", row, "ms", values=seconds, by=1000)
    yield from ratios("exec", found)
    # Of others there is too little to look at in time.
    row = next(reversed(argvs))
    yield from single("exec", row, MiB=_find_peak(argvs[row]))


def _measure_verify(row: str, ours: list[str], rounds: int) -> Iterator[Cell]:
    """Verify all that run."""
    argv = [*ours, "verify", "--all"]
    takers = {row: partial(clock, run, argv)}
    found = take_turns(takers, rounds, "verify")
    yield cell("verify", row, "ms", values=found[row], by=1000)
    yield from single("verify", row, MiB=_find_peak(argv))


def _find_peak(argv: list[str]) -> float:
    """Return the highest resident memory of a command itself, in MiB."""
    peak = 0.0
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            # Of one that has just ended there is nothing to read.
            with suppress(ProcessLookupError):
                peak = max(peak, highest(process.pid))
            time.sleep(_PAUSE)
    return peak
