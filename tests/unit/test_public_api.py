# SPDX-License-Identifier: Apache-2.0
"""Public names of the package, and what importing it costs."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lxc_userns
from lxc_userns import (
    domain,
    lazy,
    leases,
    resources,
    rootfs,
    verification,
)

PUBLIC = [
    "Finding",
    "IdMap",
    "IdMapEntry",
    "IdMaps",
    "InstanceRequest",
    "LxcUsernsError",
    "Needs",
    "PreparedInstance",
    "Requirements",
    "UserNamespaceManager",
    "Volume",
    "add_id_maps",
    "audit_domain",
    "load_id_maps",
    "privileged",
    "register_opts",
    "rootfs",
]
HEAVY = ["ctypes", "cliff", "libvirt", "lxml", "nova", "oslo_config"]


def test_names() -> None:
    module: Any = lxc_userns
    assert module.__all__ == PUBLIC


@pytest.mark.parametrize("module", [lxc_userns, rootfs])
def test_every_name_is_there(module: object) -> None:
    names = list(module.__all__)  # type: ignore[attr-defined]
    assert names == sorted(names)
    for name in names:
        value = getattr(module, name)
        assert value is getattr(module, name)
        assert name in dir(module) or module is rootfs
        assert (getattr(value, "__doc__", "") or "").strip()


@pytest.mark.parametrize(
    "package",
    [lxc_userns, rootfs, domain, leases, resources, verification],
)
def test_no_module_hides_a_name(package: ModuleType) -> None:
    # It would take the name once it is loaded.
    modules = {each.name for each in pkgutil.iter_modules(package.__path__)}
    homes = lazy.read_stub(str(package.__file__))
    # Where the name is the module itself.
    faces = {"privileged", "rootfs"}
    assert (modules & {*homes}) - faces == set()


def test_star_import() -> None:
    there: dict[str, object] = {}
    exec("from lxc_userns import *", there)  # noqa: S102
    assert set(PUBLIC) <= set(there)


def test_unknown_name() -> None:
    for module in (lxc_userns, rootfs):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            module.nothing  # noqa: B018
    with pytest.raises(ImportError):
        importlib.import_module("lxc_userns.nothing")


def run(code: str) -> list[str]:
    argv = [sys.executable, "-W", "error", "-c", code]
    return subprocess.check_output(argv, text=True, timeout=60).split()


@pytest.mark.allow_subprocess
def test_importing_loads_nothing() -> None:
    loaded = run(
        "import sys; before = set(sys.modules); import lxc_userns;"
        "print(*sorted(set(sys.modules) - before))"
    )
    assert "lxc_userns" in loaded
    roots = {name.split(".")[0] for name in loaded}
    assert roots.isdisjoint(HEAVY)
    ours = [name for name in loaded if name.startswith("lxc_userns.")]
    assert ours == ["lxc_userns.lazy"]


@pytest.mark.allow_subprocess
@pytest.mark.parametrize("name", ["IdMap", "LxcUsernsError", "rootfs"])
def test_a_name_loads_no_more_than_it_needs(name: str) -> None:
    loaded = run(
        f"import sys; from lxc_userns import {name}; print(*sys.modules)"
    )
    roots = {each.split(".")[0] for each in loaded}
    assert roots.isdisjoint(HEAVY)


@pytest.mark.allow_subprocess
def test_a_worker_loads_little() -> None:
    # A worker process starts for each large tree.
    argv = [sys.executable, "-I", "-S", "-c"]
    parent = lxc_userns.__path__[0].rpartition("/")[0]
    code = (
        f"import sys; sys.path.append({parent!r});"
        "import lxc_userns.rootfs.shifting.worker; print(*sys.modules)"
    )
    output = subprocess.check_output([*argv, code], text=True, timeout=60)
    loaded = set(output.split())
    assert "lxc_userns.rootfs.shifting.worker" in loaded
    assert loaded.isdisjoint(
        [*HEAVY, "re", "typing", "dataclasses", "subprocess", "json"]
    )


def test_nothing_of_nova_but_options_of_its_configuration() -> None:
    """Another service gets by without: these are read from the same files.

    Docstrings and comments may say what Nova has to do with it.
    """
    source = Path(lxc_userns.__path__[0])
    found = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if path.relative_to(source).parts[0] != "nova"
        and "nova" in " ".join(words(ast.parse(path.read_bytes()))).lower()
    }
    assert found == {
        # Where its instances are by default, for whoever has that option.
        "config/allowed_paths.py",
        # What "config check" says of disks, where virt_type is lxc.
        "config/check.py",
    }


def words(module: ast.Module) -> Iterator[str]:
    """Find all names and texts of a module, but for its docstrings."""
    said = {
        node.body[0].value
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        for _, value in ast.iter_fields(node):
            if isinstance(value, str) and node not in said:
                yield value
