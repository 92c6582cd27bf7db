# SPDX-License-Identifier: Apache-2.0
"""A tree that somebody changes while it is walked."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.shifting import tree_walks

MAP = IdMap.parse("0:100000:65536")
MAPS = IdMaps(MAP, MAP)


def fill(root: Path, directories: int, files: int) -> None:
    for number in range(directories):
        (root / f"d{number}" / "below").mkdir(parents=True)
        for name in range(files):
            (root / f"d{number}" / f"f{name}").touch()


def owners(root: Path) -> set[int]:
    found = {os.lstat(root).st_uid}
    for base, directories, files in os.walk(root):
        for name in (*directories, *files):
            found.add(os.lstat(os.path.join(base, name)).st_uid)
    return found


@contextmanager
def meanwhile(action: Callable[[int], object]) -> Iterator[None]:
    """Do something over and over in another thread."""
    stop = threading.Event()

    def keep_on() -> None:
        turn = 0
        while not stop.is_set():
            action(turn)
            turn += 1

    thread = threading.Thread(target=keep_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


_LOOK = os.O_PATH | os.O_DIRECTORY


def at_each_read(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[Path], object]
) -> None:
    """Do something right after the names of each directory were read."""
    read = os.listdir

    def read_and_act(path: Any) -> list[Any]:
        names = read(path)
        if path == b"." or isinstance(path, int):
            place = path if isinstance(path, int) else os.open(path, _LOOK)
            action(Path(os.readlink(f"/proc/self/fd/{place}")))
            if place is not path:
                os.close(place)
        return names

    monkeypatch.setattr(os, "listdir", read_and_act)


def shift_all(root: Path) -> rootfs.ShiftReport:
    return rootfs.shift(root, MAPS, workers=1)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_renamed_between_a_look_and_a_visit(
    any_root: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fill(any_root, 20, 10)
    name = "f3" if kind == "file" else "below"
    turns = iter(range(20))

    def rename(_: Path) -> None:
        for turn in turns:
            place = any_root / f"d{turn}"
            (place / name).rename(place / f"renamed-{name}")
            return

    at_each_read(monkeypatch, rename)
    report = shift_all(any_root)
    assert owners(any_root) == {100000}
    assert rootfs.verify(any_root).ok
    assert report.inodes == 1 + 20 * 12
    assert report.shifted >= report.inodes


def test_moved_to_where_it_was_read_already(
    any_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Met in neither directory, and so nothing vanishes."""
    for name in ("one", "two"):
        (any_root / name).mkdir()
    for number in range(50):
        for name in ("one", "two"):
            (any_root / name / f"{name}{number}").mkdir()
            (any_root / name / f"{name}{number}" / "file").touch()
    first: list[str] = []

    def move(path: Path) -> None:
        if path.name in ("one", "two"):
            first.append(path.name)
            if len(first) == 1:
                other = {"one": "two", "two": "one"}[path.name]
                for number in range(50):
                    source = any_root / other / f"{other}{number}"
                    source.rename(any_root / path.name / source.name)

    at_each_read(monkeypatch, move)
    shift_all(any_root)
    assert len(first) >= 4
    assert owners(any_root) == {100000}


def test_two_workers_and_names_that_move(memory_root: Path) -> None:
    """Whatever the moment, it is done, or it is said that it is not."""
    fill(memory_root, 300, 20)
    done = 0

    def move(turn: int) -> None:
        number = turn % 300
        place, other = f"d{number}", f"d{(number + 150) % 300}"
        for name in (f"f{turn % 20}", "below"):
            try:
                os.rename(
                    memory_root / place / name,
                    memory_root / other / f"{name}-{turn}",
                )
            except OSError:
                continue

    for _ in range(3):
        try:
            with meanwhile(move):
                rootfs.shift(memory_root, MAPS, workers=2)
        except RootfsError as err:
            assert "changed while it was shifted" in err.reason  # noqa: PT017
            assert "half-done" in err.reason  # noqa: PT017
            assert err.path == str(memory_root)  # noqa: PT017
            state = rootfs.read_state(memory_root)
            assert state is not None
            assert state.work is not None
            rootfs.shift(memory_root, MAPS)
        else:
            done += 1
        assert owners(memory_root) == {100000}
        rootfs.unshift(memory_root)


def test_changes_all_the_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, 5, 3)
    walks: list[Path] = []

    def change(path: Path) -> None:
        if path == root or str(path) == "/":
            walks.append(path)
            for number in range(5):
                (root / f"d{number}" / f"new{len(walks)}").touch()

    at_each_read(monkeypatch, change)
    with pytest.raises(RootfsError, match="changed while") as caught:
        shift_all(root)
    assert caught.value.path == str(root)
    assert "half-done" in caught.value.reason
    assert len(walks) == tree_walks._MOST_WALKS
    monkeypatch.undo()
    assert not rootfs.verify(root, MAPS).ok
    shift_all(root)
    assert owners(root) == {100000}


def test_time_that_is_yet_to_come(root: Path) -> None:
    """A directory that says so was not changed, nor will ever be done."""
    fill(root, 5, 3)
    for number in range(5):
        os.utime(root / f"d{number}", (2**32, 2**32))
    assert shift_all(root).shifted == 1 + 5 * 5


def test_removed_while_it_is_walked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, 10, 3)
    turns = iter(range(10))

    def remove(_: Path) -> None:
        for turn in turns:
            (root / f"d{turn}" / "below").rmdir()
            (root / f"d{turn}" / "f1").unlink()
            return

    at_each_read(monkeypatch, remove)
    assert shift_all(root).inodes == 1 + 10 * 3
    assert rootfs.verify(root).ok


def test_directory_that_was_handed_on_is_gone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker finds another name, or a link, where it is to begin."""
    fill(root, 3, 3)
    (root / "elsewhere").mkdir()
    names = [b"link", b"absent"]
    pass_on = os.writev

    def pass_on_another(fd: int, buffers: tuple[bytes]) -> int:
        (data,) = buffers
        # The root directory, which is what all begins with.
        if data == b"d" and names:
            data += names.pop()
        return pass_on(fd, (data,))

    (root / "link").symlink_to("elsewhere")
    monkeypatch.setattr(os, "writev", pass_on_another)
    shift_all(root)
    assert names == []
    assert owners(root) == {100000}


@pytest.mark.parametrize("what", ["directory", "file"])
def test_error_names_the_right_path(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It was looked up in another directory than the one at hand."""
    fill(root, 10, 3)
    (root / "d5" / "below" / "deep").mkdir()
    target = "d5/below/deep" if what == "directory" else "d5/f1"
    wanted = os.stat(root / target)
    opened, lchown = os.open, os.lchown

    def refuse_directory(name: Any, flags: int, *rest: Any, **at: Any) -> int:
        fd = opened(name, flags, *rest, **at)
        if flags & os.O_DIRECTORY and os.path.samestat(os.fstat(fd), wanted):
            os.close(fd)
            raise PermissionError(13, "Permission denied", name)
        return fd

    def refuse(path: object, *owner: int) -> None:
        # In place of open(), which the second attempt is made by.
        if os.path.samestat(os.lstat(path), wanted):  # type: ignore[arg-type]
            raise OSError(5, "Input/output error", path)
        lchown(path, *owner)  # type: ignore[arg-type]

    if what == "directory":
        monkeypatch.setattr(os, "open", refuse_directory)
    else:
        monkeypatch.setattr(os, "lchown", refuse)
        monkeypatch.setattr(os, "chown", refuse_open(wanted))
    with pytest.raises(RootfsError, match="half-done") as caught:
        shift_all(root)
    assert caught.value.path == str(root / target)


def refuse_open(wanted: os.stat_result) -> Callable[..., None]:
    chown = os.chown

    def refuse(path: str, *owner: int) -> None:
        if os.path.samestat(os.stat(path), wanted):
            raise OSError(5, "Input/output error", path)
        chown(path, *owner)

    return refuse


def test_recheck_of_a_tree_that_says_it_is_done(root: Path) -> None:
    fill(root, 5, 3)
    shift_all(root)
    (root / "d3" / "below" / "new").touch()
    assert shift_all(root).shifted == 0
    again = partial(rootfs.shift, root, MAPS, recheck=True)
    assert again(dry_run=True).shifted == 1
    assert again().shifted == 1
    assert again().shifted == 0
    assert rootfs.verify(root).ok
