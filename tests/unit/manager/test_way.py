# SPDX-License-Identifier: Apache-2.0
"""The way of a record through ``prepare``: downhill, as it is drawn."""

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

import pytest

from tests.unit.manager.world import World

_EXTENSION = Path(__file__).parents[3] / "doc/source/_ext/way_of_a_record.py"
#: Makes what is called, with what it needs, and hands that over; the checks of
#: arguments wrap what is called.
_WIRING = {"services", "arguments"}


@pytest.fixture(scope="module")
def figure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("way", _EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def heights(figure: ModuleType) -> dict[str, int]:
    """Layers of the rooms, the lowest first."""
    layers = figure.read_layers()
    return {room: -row for row, layer in enumerate(layers) for room in layer}


def room(frame: FrameType | None) -> str | None:
    """Room of ours that a frame is in, or was called from."""
    while frame is not None:
        package, _, rest = frame.f_globals.get("__name__", "").partition(".")
        name = rest.partition(".")[0]
        # A module that is loaded is not called.
        if frame.f_code.co_name == "<module>":
            return None
        if package == "lxc_userns" and name not in _WIRING:
            return str(name)
        frame = frame.f_back
    return None


@contextmanager
def recorded_calls() -> Iterator[set[tuple[str, str]]]:
    """Record which room calls which."""
    calls: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        # Who reads from a generator does not call who made it.
        is_generator = frame.f_code.co_flags & inspect.CO_GENERATOR
        if event == "call" and not is_generator:
            caller, called = room(frame.f_back), room(frame)
            if caller and called and caller != called:
                calls.add((caller, called))

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def test_calls_go_downhill(world: World, heights: dict[str, int]) -> None:
    with recorded_calls() as calls:
        world.manager.prepare(world.request)
    assert {("manager", "plan"), ("manager", "prepare")} <= calls
    climbs = {(a, b) for a, b in calls if heights[a] < heights[b]}
    assert climbs == set()
    # Of one layer, a stage calls another by what it was handed.
    level = {(a, b) for a, b in calls if heights[a] == heights[b]}
    assert level <= {("prepare", "plan")}


def test_the_figure_goes_downhill(
    figure: ModuleType, heights: dict[str, int]
) -> None:
    edges = figure.find_edges()
    assert [(a, b) for a, b in edges if heights[a] <= heights[b]] == []
    reduced = figure.reduce(edges)
    assert ("prepare", "leases") in reduced
    assert ("prepare", "linux") not in reduced
    assert ("prepare", "linux") in edges or ("rootfs", "linux") in edges


def test_the_figure_has_each_room_once(figure: ModuleType) -> None:
    drawn = figure.draw()
    boxes = figure.place()
    assert {"manager", "plan", "prepare", "leases", "rootfs"} <= {*boxes}
    for name, (left, _, width) in boxes.items():
        assert drawn.count(f">{name}</text>") == 1
        assert left >= 0
        assert left + width <= 760
