# SPDX-License-Identifier: Apache-2.0
"""The rooms of the source: layers, contracts and the page that lists them."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "src/lxc_userns"
#: What Python itself imports by name.
_SPECIAL = {"__init__", "__main__"}
_PAGE = TOP / "doc/source/contributor/index.rst"


@pytest.fixture(scope="module")
def contracts() -> list[dict[str, Any]]:
    project = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))
    found: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return found


def rooms() -> set[str]:
    """Return the modules and packages, the latter with a slash."""
    modules = {each.stem for each in PACKAGE.glob("*.py")} - _SPECIAL
    return modules | {f"{each.parent.name}/" for each in packages()}


def packages() -> list[Path]:
    return sorted(PACKAGE.glob("*/__init__.py"))


def listed() -> list[str]:
    """Return the rooms as the contributor page has them."""
    text = _PAGE.read_text("utf-8")
    _, _, rest = text.partition("Imports go down this table only.")
    table = rest.split("\n\n")[1]
    rows = re.findall(r"^``([a-z_]+/?)`` ", table, re.MULTILINE)
    assert len(rows) > 30
    return rows


def test_each_room_has_its_row() -> None:
    rows = listed()
    assert len({*rows}) == len(rows)
    assert {*rows} == rooms()


def test_rows_go_down_the_layers(contracts: list[dict[str, Any]]) -> None:
    (layers,) = (
        each["layers"]
        for each in contracts
        if each.get("containers") == ["lxc_userns"]
    )
    depth = {
        room: number
        for number, layer in enumerate(layers)
        for room in layer.split(" | ")
    }
    found = [depth[room.rstrip("/")] for room in listed()]
    assert found == sorted(found)


def has_face(init: Path) -> bool:
    """Return whether a package has names of its own to be imported by."""
    if init.with_suffix(".pyi").exists():
        return True
    return any(
        isinstance(node, ast.Assign | ast.FunctionDef)
        and not ast.unparse(node).startswith(("__getattr__", "__dir__"))
        for node in ast.parse(init.read_text("utf-8")).body
    )


def test_what_is_behind_a_face_has_a_contract(
    contracts: list[dict[str, Any]],
) -> None:
    protected = {
        name.split(".")[1]
        for each in contracts
        for name in each.get("protected_modules", ())
    }
    faces = {each.parent.name for each in packages() if has_face(each)}
    assert {"audit", "domain", "hook", "idmap"} <= faces
    assert faces - protected == set()


def test_unit_tests_are_in_the_rooms_of_what_they_test() -> None:
    directories = {each.parent for each in (TOP / "tests/unit").rglob("*.py")}
    found = {
        each.relative_to(TOP / "tests/unit").parts[0]
        for each in directories - {TOP / "tests/unit"}
    }
    assert len(found) > 15
    assert found - {each.rstrip("/") for each in rooms()} == {"tools"}
