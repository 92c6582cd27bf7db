# SPDX-License-Identifier: Apache-2.0
"""Attributes of our modules that tests replace: fewer, never more.

What a test needs to be otherwise is handed in: a port, a parameter, a path.
Attributes of the interpreter's modules and of others' are theirs to replace.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
PACKAGE = "lxc_userns"
#: By the room that they are in. Lower a number when there are fewer.
MOST = {
    "cli": 1,
    "containers": 1,
    "domain": 2,
    "host": 4,
    "libvirtd": 6,
    "linux": 5,
    "metrics": 1,
    "privileged": 4,
    "resources": 1,
    "rootfs": 16,
    "traces": 1,
    "verification": 2,
}


def imported(tree: ast.AST) -> dict[str, str]:
    """Return what the names of a module are."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def replaced(path: Path) -> Iterator[str]:
    """Yield the rooms in which a module of tests replaces attributes."""
    tree = ast.parse(path.read_bytes())
    names = imported(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "setattr"
            and node.args
        ):
            what = node.args[0]
            if isinstance(what, ast.Constant):
                name = str(what.value)
            else:
                first, *rest = ast.unparse(what).split(".")
                name = ".".join([names.get(first, first), *rest])
            if name.split(".")[0] == PACKAGE:
                yield name.split(".")[1]


def test_no_more_attributes_are_replaced() -> None:
    found = Counter(
        room for path in TESTS.rglob("*.py") for room in replaced(path)
    )
    more = {room: n for room, n in found.items() if n > MOST.get(room, 0)}
    assert more == {}
