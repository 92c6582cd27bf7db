# SPDX-License-Identifier: Apache-2.0
"""Directories to shift, on file systems of each kind."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.functional.capabilities import require
from tests.functional.conftest import mount_new, remove_tree
from tests.functional.rootfs.archives import Member, compress, craft
from tests.functional.rootfs.oci_layouts import Layout, MakeLayout

KINDS = ("ext4", "xfs", "btrfs", "tmpfs")
Filesystem = Callable[[str], Path]


@pytest.fixture(scope="module")
def filesystem() -> Iterator[Filesystem]:
    """One file system of each kind for all tests of a module.

    Access times are kept strictly there, so that reading something by a
    descriptor that does not spare them is seen.
    """
    base = Path(tempfile.mkdtemp(prefix="lxc-userns-shift-", dir="/var/tmp"))
    mounted: dict[str, Path] = {}

    def get(kind: str) -> Path:
        require("mounts" if kind == "tmpfs" else kind)
        if kind not in mounted:
            directory = base / kind
            directory.mkdir()
            mount_new(kind, directory)
            mounted[kind] = directory
            options = ["-o", "remount,strictatime"]
            subprocess.run(["mount", *options, directory], check=True)
        return mounted[kind]

    yield get
    remove_tree(base)


@pytest.fixture(params=KINDS)
def any_root(
    request: pytest.FixtureRequest, filesystem: Filesystem
) -> Iterator[Path]:
    """Make an empty directory, on each kind of file system in turn."""
    yield from make_root(filesystem(request.param))


@pytest.fixture
def root(filesystem: Filesystem) -> Iterator[Path]:
    """Make an empty directory on ext4."""
    yield from make_root(filesystem("ext4"))


@pytest.fixture
def memory_root(filesystem: Filesystem) -> Iterator[Path]:
    """Make an empty directory on tmpfs."""
    yield from make_root(filesystem("tmpfs"))


def make_root(parent: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="tree-", dir=parent))
    path.chmod(0o755)
    yield path
    # rm knows no limit of depth, and most trees need nothing else.
    argv = ["rm", "-rf", str(path)]
    if subprocess.run(argv, stderr=subprocess.DEVNULL).returncode:
        remove_tree(path)


@pytest.fixture
def no_holder_left(tmp_path: Path) -> Iterator[None]:
    """Whatever becomes of archives, nothing of it is left next to them."""
    yield
    assert [*tmp_path.rglob(".unpacking*")] == []


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Make an archive of one file."""
    return craft(tmp_path / "small.tar", ("file", {}))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Make an archive of five files, more than all pipes together hold."""
    data = os.urandom(1 << 20)
    members = [(f"f{number}", {"data": data}) for number in range(4)]
    archive = craft(tmp_path / "large.tar", ("first", {}), *members)
    return compress(archive, "zst")


@pytest.fixture
def make_layout(tmp_path: Path) -> MakeLayout:
    """Make a layout of one image, with layers of these members."""

    def image(*layers: Sequence[Member]) -> Path:
        archives = [
            craft(tmp_path / f"{number}.tar", *members)
            for number, members in enumerate(layers)
        ]
        layout = Layout(tmp_path / "layout")
        return layout.finish(layout.add_image(archives))

    return image
