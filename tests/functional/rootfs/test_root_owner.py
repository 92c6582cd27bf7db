# SPDX-License-Identifier: Apache-2.0
"""A root directory that no ID map entry covers is refused everywhere.

All that is in it would be nobody's, and a shift would mark it as done.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.shifting.state import STATE, State
from lxc_userns.rootfs.views import source as backing
from lxc_userns.rootfs.views import strategies, volumes
from lxc_userns.rootfs.views.strategies import ShiftOptions
from lxc_userns.spec.volume import Volume
from tests.functional import guest
from tests.functional.rootfs import golden

MAPS = guest.id_maps()
OTHER = guest.id_maps(guest.OTHER_BASE)
#: A user of the host, as of a directory service that counts from a low number.
USER = (64000, 64001)
FEW = IdMap.parse(f"0:{guest.BASE}:1000,65534:{guest.BASE + 65534}:1")
FEW_MAPS = IdMaps(FEW, FEW)

pytestmark = pytest.mark.needs("mounts")


@pytest.fixture
def tree(any_root: Path) -> Path:
    """The tree of another host: its mark was lost on the way."""
    path = any_root / "tree"
    path.mkdir()
    (path / "file").touch()
    any_root.chmod(0o700)
    rootfs.shift(path, OTHER)
    os.removexattr(path, STATE)
    return path


def mount_volume(tree: Path, maps: IdMaps, option: str) -> None:
    volume = Volume.parse(f"{tree}:/data:{option}")
    with volumes.opened(volume) as source:
        source.mount(maps, -1, "none", ShiftOptions())


def strategy(name: str) -> Callable[[Path, IdMaps], None]:
    def act(tree: Path, maps: IdMaps) -> None:
        with backing.open_source(str(tree)) as found:
            strategies.STRATEGIES[name].prepare_tree(
                found, maps, ShiftOptions()
            )

    return act


ACTIONS: dict[str, Callable[[Path, IdMaps], object]] = {
    "shift": rootfs.shift,
    "dry": lambda tree, maps: rootfs.shift(tree, maps, dry_run=True),
    "error": lambda tree, maps: rootfs.shift(tree, maps, unmapped="error"),
    "nobody": lambda tree, maps: rootfs.shift(tree, maps, unmapped="nobody"),
    "recheck": lambda tree, maps: rootfs.shift(tree, maps, recheck=True),
    "mount": lambda tree, maps: rootfs.mount_idmapped(tree, "/mnt", maps),
    "overlay-mount": lambda tree, maps: rootfs.mount_overlay(
        tree, tree.parent / "state", "/mnt", maps
    ),
    "idmap": lambda tree, maps: mount_volume(tree, maps, "idmap"),
    "readonly": lambda tree, maps: mount_volume(tree, maps, "idmap,ro"),
    "volume-chown": lambda tree, maps: mount_volume(tree, maps, "chown"),
    **{name: strategy(name) for name in ("idmapped", "overlay", "chown")},
}


def refused(tree: Path, maps: IdMaps, name: str) -> str:
    before = golden.snapshot(tree)
    with pytest.raises(RootfsError) as caught:
        ACTIONS[name](tree, maps)
    assert golden.snapshot(tree) == before
    assert not (tree.parent / "state").exists()
    return caught.value.reason


@pytest.mark.parametrize("name", ACTIONS)
def test_the_range_of_another_host(tree: Path, name: str) -> None:
    uid, gid = OTHER.root
    assert refused(tree, MAPS, name) == (
        f"belongs to {uid}:{gid}, which the ID maps {MAPS} do not cover, so "
        "that all in it would be nobody's; if it is shifted for other ID "
        "maps, and the mark of that is lost, shift it for those first "
        f"(--uid-map 0:{uid}:COUNT --gid-map 0:{gid}:COUNT); else chown it "
        "to the container's root or another guest ID"
    )


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("owner", [USER, (0, USER[1]), (USER[0], 0)])
def test_a_user_of_the_host(
    any_root: Path, name: str, owner: tuple[int, int]
) -> None:
    any_root.chmod(0o700)
    tree = any_root / "tree"
    tree.mkdir()
    os.chown(tree, *owner)
    reason = refused(tree, FEW_MAPS, name)
    assert reason.endswith(
        "nobody's; chown it to the container's root or another guest ID"
    )


def test_the_remedies_help(tree: Path) -> None:
    """The old maps, then the new ones; or a chown."""
    rootfs.shift(tree, OTHER)
    rootfs.shift(tree, MAPS)
    assert (tree / "file").stat().st_uid == guest.BASE
    assert rootfs.verify(tree, MAPS).ok
    rootfs.unshift(tree)
    os.chown(tree, *USER)
    os.chown(tree, 0, 0)
    assert rootfs.shift(tree, FEW_MAPS).unmapped == 0


def test_one_that_is_marked_and_was_given_away_since(tree: Path) -> None:
    os.setxattr(tree, STATE, State(MAPS, owner=OTHER.root, devices=0).encode())
    for name in ("shift", "dry", "chown", "volume-chown"):
        refused(tree, MAPS, name)
    # The way back to guest IDs is open, and the next use says it again.
    rootfs.unshift(tree)
    refused(tree, MAPS, "idmapped")


def test_owners_that_a_shift_has_on_the_way(any_root: Path) -> None:
    """Of the old range, a guest ID, a host ID: all of them are covered."""
    any_root.chmod(0o700)
    tree = any_root / "tree"
    tree.mkdir()
    for maps in (MAPS, OTHER, MAPS):
        rootfs.shift(tree, maps)
    os.chown(tree, 1000, 1000)
    rootfs.shift(tree, MAPS)
    assert tree.stat().st_uid == guest.BASE + 1000
    rootfs.shift(tree, OTHER)
    assert tree.stat().st_uid == guest.OTHER_BASE + 1000
