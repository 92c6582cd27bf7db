# SPDX-License-Identifier: Apache-2.0
"""Sizes of functions and modules, which are as long as one can be read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
#: Lines of a function, from its name to its end.
MOST_OF_A_FUNCTION = 50
#: Lines of a module. One of tests has tables beside the code.
MOST_OF_A_MODULE = {"src": 400, "tests": 600}


def too_long(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the functions that are too long, and their lengths."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MOST_OF_A_FUNCTION:
                yield node.name, lines


def test_no_function_is_too_long() -> None:
    found = {
        (path.name, *each)
        for path in (TOP / "src").rglob("*.py")
        for each in too_long(ast.parse(path.read_text("utf-8")))
    }
    assert found == set()


@pytest.mark.parametrize("room", MOST_OF_A_MODULE)
def test_no_module_is_too_long(room: str) -> None:
    lengths = {
        path.relative_to(TOP): len(path.read_text("utf-8").splitlines())
        for path in (TOP / room).rglob("*.py")
    }
    assert len(lengths) > 100
    found = {k: v for k, v in lengths.items() if v > MOST_OF_A_MODULE[room]}
    assert found == {}


@pytest.mark.parametrize(("body", "expected"), [(49, []), (50, [("f", 51)])])
def test_what_is_too_long(body: int, expected: list[tuple[str, int]]) -> None:
    text = "class C:\n    async def f():\n" + body * "        x = 1\n"
    assert [*too_long(ast.parse(text))] == expected
