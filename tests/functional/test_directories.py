# SPDX-License-Identifier: Apache-2.0
"""Directories of our own: no one else's to replace, or to write to."""

import os
import stat
from pathlib import Path

import pytest

from lxc_userns.linux import directory, safe_path
from tests.functional.command_line import CommandLine

USER = 1000


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_parents_are_never_open_to_all(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with directory.open_private(f"{tmp_path}/one/two/state", 0o700):
            pass
    finally:
        os.umask(before)
    assert mode(tmp_path / "one") == mode(tmp_path / "one/two") == 0o755
    assert mode(tmp_path / "one/two/state") == 0o700


def test_a_narrow_umask_does_not_count(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with directory.open_private(f"{tmp_path}/one/run", 0o711):
            pass
    finally:
        os.umask(before)
    assert mode(tmp_path / "one") == 0o755
    assert mode(tmp_path / "one/run") == 0o711


@pytest.mark.parametrize("name", ["state", "run"])
@pytest.mark.parametrize("exists", [False, True])
def test_below_a_directory_of_others(
    tmp_path: Path, busybox_rootfs: Path, name: str, exists: bool
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    cli = CommandLine.make(
        home if name == "state" else tmp_path,
        home / "run" if name == "run" else tmp_path / "run",
    )
    if exists:
        (home / name).mkdir(mode=0o700 if name == "state" else 0o711)
        (home / name).chmod(0o700 if name == "state" else 0o711)
    os.chown(home, USER, USER)
    arguments: list[str | Path] = ["rootfs", "shift", busybox_rootfs]
    if name == "run":
        arguments = [
            "container", "run", "web", "--rootfs", busybox_rootfs,
            "--init", "/bin/sh",
        ]  # fmt: skip
    error = cli(*arguments).error()
    assert f"its parent {home} belongs to user {USER}" in error
    assert (home / name).exists() == exists


@pytest.mark.parametrize("extra", [0o020, 0o002])
def test_below_a_directory_that_others_write_to(
    tmp_path: Path, extra: int
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755 | extra)
    path = f"{tmp_path}/open/state"
    with (
        pytest.raises(safe_path.ReplaceableError, match="chmod go-w"),
        directory.open_private(path, 0o700),
    ):
        pytest.fail("was opened")
    assert not os.path.exists(path)
    # In a sticky one, only what is root's is safe.
    (tmp_path / "open").chmod(0o1777)
    with directory.open_private(path, 0o700):
        pass
    os.chown(path, USER, USER)
    with (
        pytest.raises(safe_path.ReplaceableError, match="where all may write"),
        directory.open_private(path, 0o700),
    ):
        pytest.fail("was opened")


def test_links_of_root_lead_on_and_others_do_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with directory.open_private(f"{tmp_path}/link/state", 0o700):
        assert mode(tmp_path / "real/state") == 0o700
    os.chown(tmp_path / "link", USER, USER, follow_symlinks=False)
    with (
        pytest.raises(PermissionError, match="is a symbolic link"),
        directory.open_private(f"{tmp_path}/link/state", 0o700),
    ):
        pytest.fail("was opened")
    (tmp_path / "loop").symlink_to("loop")
    with (
        pytest.raises(OSError, match="Too many levels"),
        directory.open_private(f"{tmp_path}/loop/state", 0o700),
    ):
        pytest.fail("was opened")


def test_below_a_root_its_owner_counts_as_root(tmp_path: Path) -> None:
    trust = safe_path.Trust(roots=(f"{tmp_path}/instances",))
    path = tmp_path / "instances/one/disk"
    path.parent.mkdir(parents=True)
    path.touch()
    for each in (path.parent.parent, path.parent):
        os.chown(each, USER, USER)
    with safe_path.opened(str(path), trust) as fd:
        assert os.path.samestat(os.fstat(fd), path.stat())
    # Of no one else, and not beside it.
    os.chown(path.parent, USER + 1, USER)
    with (
        pytest.raises(safe_path.ReplaceableError, match=f"user {USER + 1}"),
        safe_path.opened(str(path), trust),
    ):
        pytest.fail("was opened")
    (tmp_path / "instances2").mkdir()
    os.chown(tmp_path / "instances2", USER, USER)
    (tmp_path / "instances2/disk").touch()
    with (
        pytest.raises(safe_path.ReplaceableError, match=f"user {USER}"),
        safe_path.opened(f"{tmp_path}/instances2/disk", trust),
    ):
        pytest.fail("was opened")
