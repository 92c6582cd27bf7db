# SPDX-License-Identifier: Apache-2.0
"""Helpers of ``tools/in-vm`` and ``tools/in-release``."""

import os
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[3] / "tools"
sys.path.insert(0, str(TOOLS))

from platforms import cache, checkout  # noqa: E402
from platforms.errors import PlatformError  # noqa: E402

NEEDS = cache.Needs("disk", space=1, programs={})


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_checkout_is_found_from_within() -> None:
    root = TOOLS.parent
    assert checkout.find_checkout(root / "tests/unit") == root


def test_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="not in a checkout"):
        checkout.find_checkout(tmp_path)


@pytest.mark.usefixtures("as_root")
def test_no_debootstrap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PlatformError, match="install the package debootstrap"):
        cache.check_host(tmp_path / "cache", cache.Needs("disk", space=1))
    assert not (tmp_path / "cache").exists()


def test_not_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PlatformError, match="run as root once"):
        cache.check_host(tmp_path / "cache", NEEDS)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("as_root")
def test_no_space(tmp_path: Path) -> None:
    needs = cache.Needs("disk", space=1 << 62, programs={})
    with pytest.raises(PlatformError, match="MiB free, the disk needs"):
        cache.check_host(tmp_path / "cache", needs)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("as_root")
def test_made_once_and_whole(tmp_path: Path) -> None:
    directory = tmp_path / "cache/key"
    calls: list[Path] = []

    def make(new: Path) -> None:
        calls.append(new)
        (new / "disk").touch()
        if len(calls) == 1:
            raise PlatformError("failed")

    with pytest.raises(PlatformError, match="failed"):
        cache.ensure_made(directory, NEEDS, make)
    assert [path.name for path in directory.parent.iterdir()] == ["lock"]
    for _ in range(2):
        cache.ensure_made(directory, NEEDS, make)
        assert (directory / "disk").exists()
    assert len(calls) == 2


@pytest.mark.usefixtures("as_root")
def test_what_is_not_used_makes_room(tmp_path: Path) -> None:
    for name in ("old", "broken.new", "run-old", "used"):
        (tmp_path / name).mkdir()
        if name.endswith("old"):
            os.utime(tmp_path / name, (0, 0))
    cache.ensure_made(tmp_path / "key", NEEDS, lambda _: None)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["key", "lock", "used"]


@pytest.mark.usefixtures("as_root")
def test_use_comes_before_the_look(tmp_path: Path) -> None:
    directory = tmp_path / "key"
    directory.mkdir()
    os.utime(directory, (0, 0))

    class Looked(type(directory)):  # type: ignore[misc]
        def exists(self) -> bool:
            # Another run makes room just now.
            cache.remove_unused(tmp_path)
            return os.path.exists(self)

    cache.ensure_made(Looked(directory), NEEDS, lambda _: pytest.fail("made"))
    assert directory.exists()


def test_only_what_is_installed_decides_upon_a_disk(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    for name in (
        "get-ansible-collection",
        "install-system-packages",
        "make-venv",
    ):
        (tmp_path / "tools" / name).touch()
    project = tmp_path / "pyproject.toml"

    def key(dependency: str, bench: str) -> str:
        project.write_text(
            f"[project]\ndependencies = ['{dependency}']\n"
            "[dependency-groups]\ntest = []\ndocs = []\n"
            f"bench = ['{bench}']\n"
        )
        return cache.recipe_key(tmp_path, [])

    assert key("a", "b") == key("a", "c") != key("d", "c")
