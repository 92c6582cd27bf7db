# SPDX-License-Identifier: Apache-2.0
"""Uses of a directory or image that go together."""

import pytest

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.conflicts import PathUse, find_conflicts, overlap

ONE, OTHER = (
    IdMaps(IdMap.parse(f"0:{host}:65536"), IdMap.parse(f"0:{host}:65536"))
    for host in (100000, 300000)
)
CHOWN = PathUse(path="/r", strategy="chown", id_maps=ONE)
IDMAPPED = PathUse(path="/r", strategy="idmapped", id_maps=ONE)
OVERLAY = PathUse(path="/r", strategy="overlay", id_maps=ONE)
AUTO = PathUse(path="/r", strategy="auto", id_maps=ONE)
IMAGE = PathUse(path="/r", strategy="idmapped", id_maps=ONE, is_image=True)
IMAGE_BELOW = PathUse(
    path="/r", strategy="overlay", id_maps=ONE, is_image=True
)
VOLUME = PathUse(path="/r", strategy="idmap", id_maps=ONE, is_root=False)
READ_ONLY = PathUse(
    path="/r", strategy="idmap", id_maps=ONE, is_root=False, readonly=True
)
SHIFTED_VOLUME = PathUse(
    path="/r", strategy="chown", id_maps=ONE, is_root=False
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # The same use of the same files.
        (CHOWN, CHOWN),
        (IDMAPPED, IDMAPPED),
        (SHIFTED_VOLUME, SHIFTED_VOLUME),
        # It will be, or there is a second look.
        (AUTO, CHOWN),
        (AUTO, IDMAPPED),
        (AUTO, AUTO),
        # An image that no one writes to, with any ID maps.
        (OVERLAY, PathUse(path="/r", strategy="overlay", id_maps=OTHER)),
        (IMAGE_BELOW, IMAGE_BELOW),
        (OVERLAY, READ_ONLY),
        # Volumes whose owners on disk stay.
        (
            VOLUME,
            PathUse(path="/r", strategy="idmap", id_maps=OTHER, is_root=False),
        ),
        (
            VOLUME,
            PathUse(path="/r", strategy="none", id_maps=OTHER, is_root=False),
        ),
        (VOLUME, IDMAPPED),
        # Other places.
        (CHOWN, PathUse(path="/rr", strategy="chown", id_maps=OTHER)),
    ],
)
def test_uses_that_go_together(one: PathUse, other: PathUse) -> None:
    assert not one.conflicts_with(other)
    assert not other.conflicts_with(one)
    assert list(find_conflicts([one], [other])) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Shifted on disk for one, the other loses its files.
        (CHOWN, PathUse(path="/r", strategy="chown", id_maps=OTHER)),
        (CHOWN, PathUse(path="/r/sub", strategy="chown", id_maps=ONE)),
        (CHOWN, IDMAPPED),
        (CHOWN, OVERLAY),
        (CHOWN, VOLUME),
        (
            SHIFTED_VOLUME,
            PathUse(path="/r", strategy="chown", id_maps=OTHER, is_root=False),
        ),
        (SHIFTED_VOLUME, IDMAPPED),
        (SHIFTED_VOLUME, READ_ONLY),
        # An overlay does not expect its lower layer to change.
        (OVERLAY, IDMAPPED),
        (OVERLAY, PathUse(path="/r/var", strategy="idmapped", id_maps=ONE)),
        (OVERLAY, VOLUME),
        (OVERLAY, AUTO),
        # One root filesystem for two tenants.
        (IDMAPPED, PathUse(path="/r", strategy="idmapped", id_maps=OTHER)),
        (IDMAPPED, PathUse(path="/", strategy="idmapped", id_maps=ONE)),
        # Two kernels' worth of caches write to one disk.
        (IMAGE, IMAGE),
        (IMAGE, IMAGE_BELOW),
        (
            IMAGE,
            PathUse(path="/r", strategy="auto", id_maps=ONE, is_image=True),
        ),
        # Whatever it will be.
        (AUTO, PathUse(path="/r", strategy="chown", id_maps=OTHER)),
        (AUTO, PathUse(path="/r", strategy="idmapped", id_maps=OTHER)),
    ],
)
def test_uses_that_harm_each_other(one: PathUse, other: PathUse) -> None:
    assert one.conflicts_with(other)
    assert other.conflicts_with(one)
    assert list(find_conflicts([one], [other])) == [(one, other)]


def test_paths_overlap() -> None:
    assert overlap("/a", "/a/b")
    assert overlap("/a/b", "/")
    assert not overlap("/a/b", "/a/bc")
