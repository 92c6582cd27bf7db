# SPDX-License-Identifier: Apache-2.0
"""``rootfs shift`` and ``unshift`` of trees that others have a part in."""

import os
import stat
from pathlib import Path

import pytest

from tests.functional.command_line import BASE, CommandLine

OTHER = BASE + 1_000_000
SMALLER = [
    f"--{kind}id-map=0:{OTHER}:1000" for kind in ("u", "g")
]  # fmt: skip


@pytest.fixture
def cli(tmp_path: Path, reachable_path: Path) -> CommandLine:
    return CommandLine.make(tmp_path, reachable_path / "run")


@pytest.fixture
def tree(reachable_path: Path) -> Path:
    """A tree that all can reach: a program of a user's, and a device node."""
    path = reachable_path / "store/tree"
    path.mkdir(parents=True)
    for each in (reachable_path, path.parent, path):
        each.chmod(0o755)
    (path / "program").touch()
    os.chown(path / "program", 1000, 1000)
    (path / "program").chmod(0o4755)
    os.mknod(path / "disk", stat.S_IFBLK | 0o660, os.makedev(7, 99))
    os.chown(path / "disk", 0, 6)
    return path


def test_devices_are_counted(cli: CommandLine, tree: Path) -> None:
    report = cli.json("rootfs", "shift", tree)
    assert report == {
        "inodes": 3,
        "shifted": 3,
        "unmapped": 0,
        "unmapped_uids": [],
        "unmapped_gids": [],
        "devices": 1,
        "linked_outside": 0,
        "split_links": 0,
        "read_only": 0,
    }
    st = (tree / "disk").stat()
    assert (st.st_uid, st.st_gid, st.st_mode & 0o7777) == (0, 0, 0o600)
    assert cli("rootfs", "verify", tree).code == 0
    # An older version would have done this.
    os.chown(tree / "disk", BASE, BASE + 6)
    result = cli("rootfs", "verify", tree)
    assert result.code == 1
    assert result.err == (
        f"{tree}/disk: device node of {BASE}:{BASE + 6} with mode 0600 should "
        "be root's alone\n"
    )
    assert "| devices " in cli("rootfs", "shift", tree, "--dry-run").out


def test_recheck(cli: CommandLine, tree: Path) -> None:
    cli.json("rootfs", "shift", tree)
    (tree / "new").touch()
    assert cli.json("rootfs", "shift", tree)["shifted"] == 0
    assert cli("rootfs", "verify", tree).code == 1
    report = cli.json("rootfs", "shift", tree, "--recheck")
    assert report["shifted"] == 1
    assert cli("rootfs", "verify", tree).code == 0


def test_guest_ids_only_where_root_alone_can_reach(
    cli: CommandLine, tree: Path
) -> None:
    assert cli("rootfs", "shift", tree).code == 0
    fix = f"chmod 0700 {tree.parent}, or move it into a directory of mode 0700"
    for verb, maps in (("unshift", []), ("shift", SMALLER)):
        error = cli("rootfs", verb, tree, *maps).error()
        assert error.endswith(fix)
        assert "a tree that only root can reach" in error
        assert (tree / "program").stat().st_uid == BASE + 1000
    # What the last one was about is not kept as half done.
    assert cli.json("rootfs", "verify", tree)["wrong"] == 0
    assert cli("rootfs", "unshift", tree, "--dry-run").code == 0
    tree.parent.chmod(0o700)
    report = cli.json("rootfs", "unshift", tree)
    assert (report["shifted"], report["devices"]) == (3, 1)
    assert (tree / "program").stat().st_uid == 1000
    assert (tree / "disk").stat().st_gid == 6


def test_names_outside_of_the_tree(cli: CommandLine, tree: Path) -> None:
    outside = tree.parent / "outside"
    os.link(tree / "program", outside)
    for more in ([], ["--dry-run"]):
        error = cli("rootfs", "shift", tree, "--strict", *more).error()
        assert error == (
            f"{tree}: 1 file has other names (hard links) outside of the "
            f"tree, where their owners would change too: {tree}/program; "
            "give the tree copies of its own, or leave out strict"
        )
    assert [each.stat().st_uid for each in (tree, outside)] == [0, 1000]
    assert os.listxattr(tree) == []
    result = cli("rootfs", "shift", tree, "-f", "json")
    assert result.code == 0
    assert '"linked_outside": 1' in result.out
    assert result.err == (
        f"warning: {tree}: 1 file has other names (hard links) outside of "
        f"the tree, where their owners change too: {tree}/program\n"
    )
    assert outside.stat().st_uid == BASE + 1000
