# SPDX-License-Identifier: Apache-2.0
"""Names and modules that are loaded when they are first used.

Names of a package, as :pep:`562` has it. The package's stub, which type
checkers read, is the one list of the names: ``from MODULE import NAME as
NAME`` for each.
"""

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # A worker process loads this, and has to start quickly.
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Module(ModuleType):
    """Module of others that is loaded when something of it is first used.

    As :class:`importlib.util.LazyLoader` has it, which before Python 3.12
    loads a module as soon as it is imported from a second place.
    """

    def __getattr__(self, attribute: str) -> "Any":
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        return getattr(import_module(name), attribute)


def defer(*names: str) -> None:
    """Load modules when something of them is first used.

    It counts for all that this process imports: for programs.
    """
    for name in names:
        sys.modules.setdefault(name, Module(name))


def attach(
    package: str, file: str
) -> "tuple[Callable[[str], object], Callable[[], list[str]]]":
    """Return ``__getattr__`` and ``__dir__`` for a package.

    :param package: its ``__name__``.
    :param file: its ``__file__``; the stub is beside it.
    """

    def get(name: str) -> object:
        """Return a name of the package, and load the module that has it."""
        if name == "__all__":
            return sorted(read_stub(file))
        # Others are asked for often, and are in no stub.
        home = None if name.startswith("_") else read_stub(file).get(name)
        if home is None:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}"
            )
        value: object = (
            import_module(f"{home}.{name}")
            if home == package
            else getattr(import_module(home), name)
        )
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *read_stub(file)})

    return get, names


def renamed(module: str, **names: str) -> "Callable[[str], object]":
    """Return ``__getattr__`` for a module some names of which are others now.

    The names of before work, and warn.

    :param module: its ``__name__``.
    :param names: by name of before, the name of now with its module.
    """

    def get(name: str) -> object:
        """Return what has another name now, and warn."""
        if name not in names:
            raise AttributeError(
                f"module {module!r} has no attribute {name!r}"
            )
        import warnings

        warnings.warn(
            f"{module}.{name} is deprecated; use {names[name]}",
            DeprecationWarning,
            stacklevel=2,
        )
        home, _, now = names[name].rpartition(".")
        value: object = getattr(import_module(home), now)
        return value

    return get


def read_stub(file: str) -> dict[str, str]:
    """Return the module of each name."""
    import ast

    with open(f"{file.removesuffix('.py')}.pyi", encoding="utf-8") as stub:
        statements = ast.parse(stub.read()).body
    return {
        alias.name: statement.module or ""
        for statement in statements
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
