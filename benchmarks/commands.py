# SPDX-License-Identifier: Apache-2.0
"""Commands from start to end: alone, and on containers that run."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from benchmarks.measure import clock, run, take_turns
from benchmarks.scratch import Scratch, argv
from benchmarks.tables import Cell, planned, ratios, single, timed
from lxc_userns.containers import ContainerSpec
from lxc_userns.containers.containers import Containers
from tests.functional import images
from tests.functional.command_line import ID_MAP, PROGRAM

#: How many are verified.
_MANY = (1, 10, 50)
_INIT = ("/bin/sh", "-c", "trap exit TERM; sleep 1000 & wait")
# Small, for a process begins with the peak of the one that has executed it.
_PEAK = """\
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measure(scratch: Scratch, asked: Namespace) -> Iterator[Cell]:
    """Measure the command line where there are no containers."""
    for name in ("shifted", "tree"):
        (scratch.closed / name).mkdir()
    argvs = planned(
        "commands",
        python=sys.executable,
        program=PROGRAM,
        maps=f"--uid-map={ID_MAP} --gid-map={ID_MAP}",
        shifted=scratch.closed / "shifted",
        tree=scratch.closed / "tree",
        view=scratch.view("command"),
    )
    yield from _compare("commands", argvs, asked.rounds)


def measure_running(scratch: Scratch, asked: Namespace) -> Iterator[Cell]:
    """Start many containers of one tree, and measure commands on them."""
    tree = scratch.closed / "busybox"
    images.make_busybox(tree)
    cli = scratch.configure("running")
    services = cli.services()
    containers = Containers(cli.manager(), services)
    ours = argv(cli, "container")
    with ExitStack() as stack:
        for number in range(1, max(_MANY) + 1):
            name, row = f"bench{number}", str(number)
            spec = ContainerSpec(name, str(tree), _INIT, strategy="overlay")
            containers.run(spec)
            stack.callback(containers.destroy, name)
            if number == 1:
                with services.guests.init_process(name) as init:
                    argvs = planned(
                        "exec", name=name, pid=init.pid, ours=shlex.join(ours)
                    )
                    yield from _compare(
                        "exec", argvs, asked.rounds, "ratio", "container exec"
                    )
            if number in _MANY:
                verify = {row: [*ours, "verify", "--all"]}
                yield from _compare("verify", verify, asked.rounds, "", row)


def _compare(
    table: str,
    argvs: Mapping[str, list[str]],
    rounds: int,
    ratio: str = "",
    large: str = "",
) -> Iterator[Cell]:
    """Let commands take turns.

    :param large: whose memory is measured: it has to have more than Python.
    """
    takers = {row: partial(clock, run, argv) for row, argv in argvs.items()}
    times = take_turns(takers, rounds, table, warm_up=True)
    yield from timed(table, times)
    if ratio:
        yield from ratios(table, times)
    if large:
        peak = int(run([sys.executable, "-c", _PEAK, *argvs[large]]))
        yield from single(table, large, MiB=peak / 1024)
