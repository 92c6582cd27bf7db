# SPDX-License-Identifier: Apache-2.0
"""Files that have names outside of a tree, and change there too."""

import logging
import os
from pathlib import Path

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import directory
from lxc_userns.rootfs.views import overlay
from lxc_userns.rootfs.views.strategies import ShiftOptions
from tests.functional import guest
from tests.functional.rootfs import golden
from tests.functional.rootfs.kill import run_and_kill
from tests.functional.rootfs.test_workers import fill

MAP = IdMap.parse("0:100000:65536")
MAPS = IdMaps(MAP, MAP)
OVERLAP = IdMap.parse("0:1000:65536")
TRANSIT = IdMaps(OVERLAP, OVERLAP)
#: Files with a name outside, by how many names they have in the tree.
IN_TREE = {"a/one": 1, "a/two": 2, "dev": 1}


@pytest.fixture
def tree(root: Path) -> Path:
    """A tree with names inside and outside of it."""
    path, outside = root / "tree", root / "outside"
    for each in (path, path / "a", path / "b", outside):
        each.mkdir(parents=True)
    for name in ("a/one", "a/two", "a/inside"):
        (path / name).touch()
    os.mknod(path / "dev", 0o600 | 0o020000, os.makedev(1, 3))
    os.link(path / "a/two", path / "b/two")
    os.link(path / "a/inside", path / "b/inside")
    for name in IN_TREE:
        os.link(path / name, outside / Path(name).name)
    # Two names outside count as one file.
    os.link(path / "a/one", outside / "once more")
    return path


def linked_paths(tree: Path) -> set[str]:
    return {str(tree / name) for name in (*IN_TREE, "b/two")}


@pytest.mark.parametrize("dry_run", [True, False])
def test_they_are_counted_and_named(
    tree: Path, dry_run: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    report = rootfs.shift(tree, MAPS, dry_run=dry_run)
    assert (report.inodes, report.linked_outside) == (7, 3)
    assert len(report.linked_paths) == 3
    assert set(report.linked_paths) < linked_paths(tree)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{tree}: 3 files have other names" in record.getMessage()
    assert report.linked_paths[0] in record.getMessage()
    if dry_run:
        return
    assert (tree.parent / "outside/one").stat().st_uid == 100000
    # It is known the next time too, and in the way back.
    assert rootfs.shift(tree, MAPS).linked_outside == 3
    assert rootfs.unshift(tree).linked_outside == 3
    assert len(caplog.records) == 3


def test_names_in_the_tree_are_no_news(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two", "dev", "once more"):
        (tree.parent / "outside" / name).unlink()
    report = rootfs.shift(tree, MAPS, strict=True)
    assert (report.linked_outside, report.linked_paths) == (0, ())
    assert caplog.records == []


@pytest.mark.parametrize("maps", [MAPS, TRANSIT])
def test_strict_refuses_before_anything_changes(
    tree: Path, maps: IdMaps
) -> None:
    before = golden.snapshot(tree)
    times = golden.change_times(tree, before)
    with pytest.raises(RootfsError, match="3 files have other"):
        rootfs.shift(tree, maps, strict=True, dry_run=True)
    with pytest.raises(RootfsError, match="3 files have other") as caught:
        rootfs.shift(tree, maps, strict=True)
    assert str(tree / "dev") in caught.value.reason
    assert golden.snapshot(tree) == before
    assert golden.change_times(tree, before) == times
    # Also where it is done, and where it is half done.
    rootfs.shift(tree, maps)
    shifted = golden.snapshot(tree)
    with pytest.raises(RootfsError, match="leave out strict"):
        rootfs.shift(tree, maps, strict=True)
    assert golden.snapshot(tree) == shifted
    assert run_and_kill(lambda: rootfs.unshift(tree, workers=1), 4)
    halfway = golden.snapshot(tree)
    with pytest.raises(RootfsError, match="3 files have other"):
        rootfs.shift(tree, maps, strict=True)
    assert golden.snapshot(tree) == halfway


def test_one_that_was_put_right(tree: Path) -> None:
    rootfs.shift(tree, MAPS)
    for name in ("one", "two", "dev", "once more"):
        (tree.parent / "outside" / name).unlink()
    assert rootfs.shift(tree, MAPS, strict=True).linked_outside == 0
    assert rootfs.shift(tree, MAPS).linked_outside == 0


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("resumed", [False, True])
def test_many_workers_count_alike(
    memory_root: Path, workers: int, resumed: bool
) -> None:
    """It does not matter which of them meets which of the names."""
    tree, outside = memory_root / "tree", memory_root / "outside"
    for each in (tree / "a", tree / "b", tree / "c/c/c", outside):
        each.mkdir(parents=True)
    fill(tree, 60, 100)
    for number in range(2400):
        name = f"{number}"
        path = tree / "a" / name
        path.touch()
        os.link(path, tree / "b" / name)
        if number % 2:
            os.link(path, tree / "c/c/c" / name)
        if number % 3 == 0:
            os.link(path, outside / name)
    inodes = 2400 + 6 + 60 * 101
    dry = rootfs.shift(tree, MAPS, workers=workers, dry_run=True)
    assert (dry.inodes, dry.linked_outside) == (inodes, 800)
    if resumed:
        argument = 900
        assert run_and_kill(
            lambda: rootfs.shift(tree, MAPS, workers=1), argument
        )
    report = rootfs.shift(tree, MAPS, workers=workers)
    assert (report.inodes, report.linked_outside) == (inodes, 800)
    assert len(report.linked_paths) == 10
    for shown in report.linked_paths:
        assert int(Path(shown).name) % 3 == 0
        assert Path(shown).is_relative_to(tree)
        assert os.path.exists(shown)


def test_odd_and_deep_names_are_shown(memory_root: Path) -> None:
    tree = memory_root / "tree"
    place = tree.joinpath(*["d" * 200] * 7)
    place.mkdir(parents=True)
    (place / "deep").touch()
    os.link(place / "deep", memory_root / "outside")
    (report,) = rootfs.shift(tree, MAPS, dry_run=True).linked_paths
    assert report == f"{tree}/.../deep"
    odd = os.fsencode(tree) + b"/\xff\n"
    os.mkfifo(odd)
    os.link(odd, memory_root / "fifo")
    reports = rootfs.shift(tree, MAPS, dry_run=True).linked_paths
    assert f"{tree}/\\xff\\n" in reports


def test_the_index_of_an_overlay_is_no_news(
    root: Path, reachable_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has one more name of each file that has several in the image."""
    image, state, view = root / "image", root / "state", reachable_path / "v"
    image.mkdir()
    image.chmod(0o755)
    (image / "one").touch()
    os.link(image / "one", image / "two")
    maps = guest.id_maps()
    with guest.mounted(image, view, maps, state):
        (view / "one").write_text("changed")
    assert (state / "upper/one").stat().st_nlink > 1
    options = ShiftOptions(is_layer=True)
    with directory.opened(state) as fd:
        overlay.reshift(fd, guest.id_maps(guest.OTHER_BASE), options.shift)
    assert (state / "upper/one").stat().st_uid == guest.OTHER_BASE
    assert caplog.records == []
