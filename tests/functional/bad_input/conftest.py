# SPDX-License-Identifier: Apache-2.0
"""The program, and a root filesystem in which nothing changes."""

import os
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import CommandLine


@pytest.fixture
def cli(tmp_path: Path, reachable_path: Path) -> CommandLine:
    """The program; no libvirtd is needed."""
    return CommandLine.make(tmp_path, reachable_path / "run")


@pytest.fixture
def container_cli(
    cli: CommandLine, libvirt_connection: libvirt.virConnect
) -> Iterator[CommandLine]:
    """The program with a libvirtd, and no container left at the end."""
    yield cli
    assert list(cli.state.glob("instances/*")) == []
    assert cli.mounts() == []
    assert libvirt_connection.listAllDomains() == []


@pytest.fixture
def rootfs(busybox_rootfs: Path) -> Iterator[Path]:
    """A root filesystem of which nothing has changed at the end."""
    before = owners(busybox_rootfs)
    yield busybox_rootfs
    assert owners(busybox_rootfs) == before
    assert not [
        name for name in os.listxattr(busybox_rootfs) if "lxc_userns" in name
    ]


def owners(tree: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in (tree, *tree.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_uid, status.st_gid, status.st_mode)
    return found
