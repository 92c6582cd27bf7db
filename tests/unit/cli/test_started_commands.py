# SPDX-License-Identifier: Apache-2.0
"""Commands that start containers, of containers that are made up."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from lxc_userns.cli.container_life import Start
from lxc_userns.containers.state import Container
from lxc_userns.traces.trace import Trace
from tests.unit.manager.conftest import tmp_path, world
from tests.unit.manager.world import World, run

__all__ = ["tmp_path", "world"]


@dataclass
class Told:
    """Containers of which one is told of at each question, in this order."""

    each: Iterator[Container]

    def show(self, _name: str) -> Container:
        return next(self.each)


@pytest.mark.parametrize(
    ("number", "failed"), [(signal.SIGHUP, False), (signal.SIGTERM, True)]
)
def test_one_that_reboots_has_not_ended(
    world: World, number: int, failed: bool
) -> None:
    """libvirt does not run it for a moment."""
    run(world)
    running = world.containers.show("web1")
    assert running.state == "running"
    trace = Trace(ended=True, status=number)
    between = replace(running, state="stopped", trace=trace)
    command = object.__new__(Start)
    command.failed = False
    command.__dict__["containers"] = Told(iter([between, between, running]))
    columns, values = command.show_started("web1")
    shown = dict(zip(columns, values, strict=True))
    assert command.failed is failed
    assert shown["state"] == ("stopped" if failed else "running")
