# SPDX-License-Identifier: Apache-2.0
"""A tree is not changed through a view: that shows owners of no disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import mounts
from lxc_userns.rootfs.views import source as backing
from lxc_userns.rootfs.views import strategies, volumes
from lxc_userns.rootfs.views.strategies import ShiftOptions
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from tests.functional import guest
from tests.functional.rootfs import golden

MAPS = guest.id_maps()
OTHER = guest.id_maps(guest.OTHER_BASE)

pytestmark = pytest.mark.needs("mounts")


@pytest.fixture
def tree(any_root: Path) -> Path:
    path = any_root / "tree"
    (path / "etc").mkdir(parents=True)
    (path / "etc/passwd").write_text("root\n")
    any_root.chmod(0o700)
    return path


@pytest.fixture(params=["idmapped", "overlay"])
def view(
    request: pytest.FixtureRequest, tree: Path, reachable_path: Path
) -> Iterator[Path]:
    state = tree.parent / "state" if request.param == "overlay" else None
    with guest.mounted(tree, reachable_path / "view", MAPS, state) as point:
        yield point


def chown(view: Path) -> None:
    with volumes.opened(Volume.parse(f"{view}:/data:chown")) as source:
        source.mount(MAPS, -1, "none", ShiftOptions())


def prepare_tree(name: str) -> Callable[[Path], None]:
    def act(view: Path) -> None:
        maps = None if name == Strategy.BIND else MAPS
        with backing.open_source(str(view)) as found:
            strategies.STRATEGIES[name].prepare_tree(
                found, maps, ShiftOptions()
            )

    return act


ACTIONS: dict[str, Callable[[Path], object]] = {
    "shift": lambda view: rootfs.shift(view, MAPS),
    "other": lambda view: rootfs.shift(view, OTHER),
    "recheck": lambda view: rootfs.shift(view, MAPS, recheck=True),
    "dry": lambda view: rootfs.shift(view, MAPS, dry_run=True),
    "unshift": rootfs.unshift,
    "verify": lambda view: rootfs.verify(view, MAPS),
    "volume": chown,
    **{name: prepare_tree(name) for name in strategies.STRATEGIES},
}


@pytest.mark.parametrize("name", ACTIONS)
def test_the_tree_behind_stays_as_it_is(
    tree: Path, view: Path, name: str
) -> None:
    before = golden.snapshot(tree.parent)
    with pytest.raises(RootfsError) as caught:
        ACTIONS[name](view)
    with backing.open_source(str(view)) as found:
        mount = mounts.find_mount(found.fd)
    assert mount is not None
    named = "overlay" if mount.fs_type == "overlay" else "idmapped mount"
    assert caught.value.reason == (
        f"is seen through a view, the {named} on {view}; give the directory "
        "which that shows"
    )
    assert golden.snapshot(tree.parent) == before


def test_not_by_another_name_of_the_view(
    tree: Path, reachable_path: Path
) -> None:
    bound = reachable_path / "bound"
    bound.mkdir()
    before = golden.snapshot(tree)
    with guest.mounted(tree, reachable_path / "view", MAPS) as view:
        guest.call("mount", "--bind", view, bound)
        try:
            for act in (ACTIONS["shift"], rootfs.unshift):
                with pytest.raises(RootfsError, match="seen through a view"):
                    act(bound)
                with (
                    backing.open_source(str(view)) as found,
                    pytest.raises(RootfsError, match="seen through a view"),
                ):
                    rootfs.shift(view, MAPS, fd=found.fd)
        finally:
            guest.call("umount", bound)
    assert golden.snapshot(tree) == before
    # By its own path it is shifted, and known for what it is.
    assert rootfs.shift(tree, MAPS).shifted == 3
    assert rootfs.unshift(tree).shifted == 3


def test_nothing_is_unpacked_through_a_view(
    tree: Path, view: Path, small: Path
) -> None:
    before = golden.snapshot(tree.parent)
    for shifted in (True, False):
        maps = MAPS if shifted else None
        for path in (view, view / "new"):
            with pytest.raises(RootfsError) as caught:
                rootfs.unpack(small, path, maps, shifted=shifted)
            # What is in the container's hands is refused for that already.
            assert "view" in caught.value.reason
    assert golden.snapshot(tree.parent) == before
