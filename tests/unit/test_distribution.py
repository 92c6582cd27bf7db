# SPDX-License-Identifier: Apache-2.0
"""Archives that are built of this: a sdist and a wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
#: What a checkout has, and an archive has not.
_NOT_SHIPPED = (".ci/", ".gitignore")
#: What is in a directory of work, and was never the project's.
_IGNORED = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".hypothesis", ".scratch", "*.egg-info",
    "__pycache__", "build", "dist", ".fuzz", ".coverage",
)  # fmt: skip
#: Unit tests that read what else is in the tree; all would take minutes.
_SOME_TESTS = (
    "cli/test_main.py", "config/test_options.py", "test_documentation.py",
    "test_installation.py", "test_samples.py",
)  # fmt: skip
_LONGEST = 300.0

pytestmark = pytest.mark.allow_subprocess


def build(tree: Path, kind: str, place: Path) -> Path:
    """Build with what is installed; no index is asked."""
    argv = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}"]
    done = subprocess.run(
        [*argv, "--outdir", place, tree],
        capture_output=True,
        text=True,
        timeout=_LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = place.iterdir()
    return found


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the sdist of a tree that nothing was built in before."""
    place = tmp_path_factory.mktemp("sdist")
    shutil.copytree(TOP, place / "tree", ignore=_IGNORED, symlinks=True)
    archive = build(place / "tree", "sdist", place / "out")
    subprocess.run(["tar", "-C", place, "-xf", archive], check=True)
    (found,) = place.glob("lxc_userns-*")
    return found


def files(tree: Path) -> set[str]:
    return {
        str(each.relative_to(tree))
        for each in tree.rglob("*")
        if each.is_file() or each.is_symlink()
    }


def test_the_sdist_is_the_whole_project(unpacked: Path) -> None:
    there = files(unpacked)
    for name in ("doc/source/conf.py", "etc/systemd/keyring.conf", "Makefile",
                 "tests/functional/conftest.py", "tools/private-libvirtd",
                 "benchmarks/__main__.py", "packaging/lxc-userns-nova/"
                 "pyproject.toml", "releasenotes/notes"):  # fmt: skip
        assert (unpacked / name).exists(), name
    wanted = {
        name
        for name in files(unpacked.parent / "tree")
        if not name.startswith(_NOT_SHIPPED) and "doc/build" not in name
    }
    assert {name for name in wanted if "egg-info" not in name} <= there
    for name in ("tools/private-libvirtd", "tools/demo"):
        assert os.access(unpacked / name, os.X_OK)
    assert not [name for name in there if "__pycache__" in name]


def test_the_wheel_of_the_sdist_has_what_is_copied(
    unpacked: Path, tmp_path: Path
) -> None:
    wheel = build(unpacked, "wheel", tmp_path)
    with zipfile.ZipFile(wheel) as stream:
        names = stream.namelist()
        data = next(n for n in names if ".data/data/" in n).split("/data/")[0]
        for source, target in (
            ("etc/lxc-userns", "etc/lxc-userns"),
            ("etc/apparmor.d", "share/lxc-userns/apparmor.d"),
            ("etc/systemd", "share/lxc-userns/systemd"),
        ):
            for file in sorted((TOP / source).iterdir()):
                if file.name == "config-generator.conf":
                    continue  # For those who change the options.
                name = f"{data}/data/{target}/{file.name}"
                assert stream.read(name) == file.read_bytes()
    packages = {n.split("/")[0] for n in names} - {data}
    assert {each.partition("-")[0] for each in packages} == {"lxc_userns"}
    there = {n for n in names if n.endswith((".py", ".pyi"))}
    assert there == {
        str(each.relative_to(TOP / "src"))
        for suffix in ("py", "pyi")
        for each in (TOP / "src/lxc_userns").rglob(f"*.{suffix}")
    }
    assert "lxc_userns/py.typed" in names


def test_its_tests_run_from_the_sdist(unpacked: Path) -> None:
    place = unpacked / "tests/unit"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         *(place / name for name in _SOME_TESTS)],
        cwd=unpacked,
        env={**os.environ, "PYTHONPATH": str(unpacked / "src")},
        capture_output=True,
        text=True,
        timeout=_LONGEST,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout


def test_nova_finds_the_driver_from_another_directory(tmp_path: Path) -> None:
    """A distribution's Nova is in dist-packages, which pip does not touch."""
    tree = tmp_path / "tree"
    shutil.copytree(TOP / "packaging/lxc-userns-nova", tree, ignore=_IGNORED)
    wheel = build(tree, "wheel", tmp_path / "out")
    for name in ("dist/nova/__init__.py", "dist/nova/virt/__init__.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as stream:
        stream.extractall(site)
    find = "importlib.util.find_spec('nova.virt.lxc_userns')"
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'dist')!r}); "
        f"import importlib.util, site; site.addsitedir({str(site)!r}); "
        f"print({find}.origin); import nova.virt; "
        "print(importlib.util.find_spec('nova.virt.others'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        timeout=_LONGEST,
        check=False,
    )
    place = site / "nova/virt/lxc_userns/__init__.py"
    assert done.stdout == f"{place}\nNone\n", done.stderr
