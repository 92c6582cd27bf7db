# SPDX-License-Identifier: Apache-2.0
"""Attributes that tests replace: a few kinds, with reasons, never more.

What a test needs to be otherwise is handed in: a port, a parameter, a path, a
program in ``PATH``.
"""

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
REPLACERS = {"setattr", "delattr", "setitem", "delitem"}
#: An attribute of what is no module and no class that the module has imported.
OBJECT = "object"
#: Kinds that are told apart from others of their module.
ALONE = {"os.geteuid", "sys.modules", "oslo_config.cfg.CONF"}
#: Kinds, and how often each is replaced. Lower a number when there are fewer;
#: whoever wants to raise one looks for a port first.
ALLOWED = {
    # Who runs the tests is not known, and root cannot be made.
    "os.geteuid": 13,
    # A change or fault in the middle of work on files, made in the system
    # call itself; a host of other users, groups and files (IdHost).
    "os": 20,
    "io": 1,
    "builtins": 2,
    "grp": 2,
    "pwd": 3,
    "fcntl": 1,
    "marshal": 1,
    "shutil": 2,
    "socket": 1,
    "sqlite3": 2,
    "subprocess": 3,
    "threading": 1,
    # What waits for long, in whole programs (hurried); a clock for files
    # whose own times the kernel sets.
    "time": 4,
    # Streams that somebody looks at; a module that is not installed.
    "sys": 4,
    "sys.modules": 2,
    # That nothing of it is called, or how often.
    "cliff": 1,
    "importlib": 1,
    "tqdm": 2,
    "oslo_config": 1,
    # Global to the process by their nature: oslo.config's own instance and
    # privsep's context, in which a helper runs that has no arguments.
    "oslo_config.cfg.CONF": 1,
    "oslo_privsep": 1,
    "lxc_userns.privileged": 4,
    "lxc_userns.verification": 2,
    "lxc_userns.libvirtd": 1,
    "lxc_userns.resources": 1,
    # Parts of Nova that its fixtures bring, and ours in whole services.
    "nova": 6,
    "tempfile": 2,
    "lxc_userns.linux": 3,
    "lxc_userns.subid": 2,
    # What cannot happen but by a fault of ours: two parsers differ.
    "lxc_userns.domain": 2,
    # Functions that commands call by name, which are loaded late.
    "lxc_userns.rootfs": 4,
    "lxc_userns.metrics": 1,
    # A table of checks that look at the host's own directories.
    "lxc_userns.own_paths": 2,
    "benchmarks": 2,
    # The fixture by which unit tests cannot touch the system.
    "_posixsubprocess": 1,
    # Objects that the test itself has made, and fields of values.
    "object": 18,
    "tests": 2,
}


def find_imports(tree: ast.AST) -> dict[str, str]:
    """Return what the names of a module are."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = alias.asname or alias.name
                found[name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                found[name] = alias.name if alias.asname else name
    return found


def find_replaced(source: str | bytes) -> Iterator[str]:
    """Yield the names of what a module of tests replaces."""
    tree = ast.parse(source)
    names = find_imports(tree)

    def resolve(node: ast.expr) -> str:
        first, *rest = ast.unparse(node).split(".")
        return ".".join([names[first], *rest]) if first in names else OBJECT

    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from find_in_call(node, resolve)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute):
                    yield from {resolve(target)} - {OBJECT}


def find_in_call(
    call: ast.Call, resolve: Callable[[ast.expr], str]
) -> Iterator[str]:
    """Yield the name of what a call replaces, if it does."""
    if resolve(call.func).startswith("unittest.mock.patch"):
        yield "unittest.mock"
    *receiver, method = ast.unparse(call.func).split(".")
    is_builtin = not receiver and method in ("setattr", "delattr")
    if not call.args or not (is_builtin or (receiver and method in REPLACERS)):
        return
    what, *rest = call.args
    if isinstance(what, ast.Constant):
        yield str(what.value)
        return
    name = resolve(what)
    attribute = getattr(rest[0], "value", "*") if rest else "*"
    yield name if name == OBJECT else f"{name}.{attribute}"


def kind_of(name: str) -> str:
    """Return the kind of a replaced name: a module, or a room of ours."""
    package, _, rest = name.partition(".")
    for kind in ALONE:
        if name.startswith(kind):
            return kind
    if package == "lxc_userns":
        return f"lxc_userns.{rest.partition('.')[0]}"
    return package


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from a import b\nmonkeypatch.setattr(b, 'c', 1)", ["a.b.c"]),
        ("import a\npatch.delattr(a.b, 'c')", ["a.b.c"]),
        ("import a.b\nwith p() as x: x.setattr(a.b, 'c', 1)", ["a.b.c"]),
        ("import a as b\nsetattr(b, name, 1)", ["a.*"]),
        ("m.setattr('a.b.c', 1)", ["a.b.c"]),
        ("import a\nm.setitem(a.b, 'c', 1)", ["a.b.c"]),
        ("import a\na.b = a.c.d = 1", ["a.b", "a.c.d"]),
        ("from unittest import mock\nmock.patch('a.b')", ["unittest.mock"]),
        (
            "from unittest.mock import patch\npatch.object(a, 'b')",
            ["unittest.mock"],
        ),
        ("m.setattr(world, 'b', 1)", [OBJECT]),
        ("import a\nmade = a.b\nmade.c = 1\na.d['e'] = 1", []),
    ],
)
def test_what_is_found(source: str, found: list[str]) -> None:
    assert [*find_replaced(source)] == found


def test_no_more_attributes_are_replaced() -> None:
    found = Counter(
        kind_of(name)
        for path in TESTS.rglob("*.py")
        for name in find_replaced(path.read_bytes())
    )
    assert found == ALLOWED
