# SPDX-License-Identifier: Apache-2.0
"""Hard links that a shift breaks on an overlay without an index."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import mounts
from lxc_userns.linux.mounts import Mount
from tests.functional import guest
from tests.functional.rootfs import golden

MAPS = guest.id_maps()

pytestmark = pytest.mark.needs("mounts")

Merged = Callable[[str], AbstractContextManager[Path]]


@pytest.fixture
def merged(any_root: Path) -> Merged:
    """An overlay on a tree with three names of one file, and two of one."""
    for name in ("lower/tree/below", "upper", "work", "merged"):
        (any_root / name).mkdir(parents=True)
    tree = any_root / "lower/tree"
    for name, others in (("a", ("b", "below/c")), ("suid", ("below/d",))):
        (tree / name).write_text(name)
        for other in others:
            os.link(tree / name, tree / other)
    (tree / "suid").chmod(0o4755)
    (tree / "alone").touch()

    @contextmanager
    def mount(index: str) -> Iterator[Path]:
        options = ",".join(
            f"{name}dir={any_root}/{name}"
            for name in ("lower", "upper", "work")
        )
        point = any_root / "merged"
        guest.call(
            "mount", "-t", "overlay", "none", "-o", f"{options}{index}", point
        )
        try:
            yield point / "tree"
        finally:
            guest.call("umount", point)

    return mount


@pytest.mark.parametrize("index", ["", ",index=off"])
def test_it_is_said(
    merged: Merged, index: str, caplog: pytest.LogCaptureFixture
) -> None:
    with merged(index) as tree:
        before = golden.snapshot(tree)
        dry = rootfs.shift(tree, MAPS, dry_run=True)
        assert dry.split_links == 5
        with pytest.raises(RootfsError, match="mount that with index=on"):
            rootfs.shift(tree, MAPS, strict=True)
        assert golden.snapshot(tree) == before
        caplog.clear()
        report = rootfs.shift(tree, MAPS)
        assert report.split_links == 5
        assert report.linked_outside == 0
        assert (tree / "a").stat().st_nlink == 1
        assert "5 names (hard links) of files with several" in caplog.text
        assert rootfs.verify(tree, MAPS).ok
        # Nothing is left to be split.
        caplog.clear()
        assert rootfs.unshift(tree).split_links == 0
        assert caplog.text == ""


def test_names_of_the_upper_layer_stay_together(merged: Merged) -> None:
    with merged(",index=off") as tree:
        (tree / "new").touch()
        os.link(tree / "new", tree / "below/new")
        assert rootfs.shift(tree, MAPS).split_links == 5
        assert (tree / "new").stat().st_nlink == 2


def test_with_an_index_none_is_split(
    merged: Merged, caplog: pytest.LogCaptureFixture
) -> None:
    with merged(",index=on") as tree:
        report = rootfs.shift(tree, MAPS, strict=True)
        assert report.split_links == 0
        assert (tree / "a").stat().st_nlink == 3
        assert caplog.text == ""


@pytest.mark.parametrize(
    ("said", "expected"), [("Y\n", False), ("N\n", True), (None, True)]
)
def test_what_goes_without_saying(
    tmp_path: Path,
    said: str | None,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default = tmp_path / "index"
    if said is not None:
        default.write_text(said)
    really = open

    def opened(path: str, **options: str) -> IO[str]:
        assert path == "/sys/module/overlay/parameters/index"
        return really(default, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr("builtins.open", opened)
    assert mounts.splits_links(Mount(1, "/", "overlay")) is expected
    assert not mounts.splits_links(Mount(1, "/", "ext4"))
