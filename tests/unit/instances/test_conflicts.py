# SPDX-License-Identifier: Apache-2.0
"""Which uses of a directory or image go together."""

import pytest

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.conflicts import PathUse, find_conflicts, overlap

ONE, OTHER = (
    IdMaps(IdMap.parse(f"0:{host}:65536"), IdMap.parse(f"0:{host}:65536"))
    for host in (100000, 300000)
)
CHOWN = PathUse("/r", "chown", ONE)
IDMAPPED = PathUse("/r", "idmapped", ONE)
OVERLAY = PathUse("/r", "overlay", ONE)
AUTO = PathUse("/r", "auto", ONE)
IMAGE = PathUse("/r", "idmapped", ONE, is_image=True)
IMAGE_BELOW = PathUse("/r", "overlay", ONE, is_image=True)
VOLUME = PathUse("/r", "idmap", ONE, is_root=False)
READ_ONLY = PathUse("/r", "idmap", ONE, is_root=False, readonly=True)
SHIFTED_VOLUME = PathUse("/r", "chown", ONE, is_root=False)


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
        # An image that nobody writes to, with any ID maps.
        (OVERLAY, PathUse("/r", "overlay", OTHER)),
        (IMAGE_BELOW, IMAGE_BELOW),
        (OVERLAY, READ_ONLY),
        # Volumes whose owners on disk stay.
        (VOLUME, PathUse("/r", "idmap", OTHER, is_root=False)),
        (VOLUME, PathUse("/r", "none", OTHER, is_root=False)),
        (VOLUME, IDMAPPED),
        # Other places.
        (CHOWN, PathUse("/rr", "chown", OTHER)),
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
        (CHOWN, PathUse("/r", "chown", OTHER)),
        (CHOWN, PathUse("/r/sub", "chown", ONE)),
        (CHOWN, IDMAPPED),
        (CHOWN, OVERLAY),
        (CHOWN, VOLUME),
        (SHIFTED_VOLUME, PathUse("/r", "chown", OTHER, is_root=False)),
        (SHIFTED_VOLUME, IDMAPPED),
        (SHIFTED_VOLUME, READ_ONLY),
        # An overlay does not expect its lower layer to change.
        (OVERLAY, IDMAPPED),
        (OVERLAY, PathUse("/r/var", "idmapped", ONE)),
        (OVERLAY, VOLUME),
        (OVERLAY, AUTO),
        # One root filesystem for two tenants.
        (IDMAPPED, PathUse("/r", "idmapped", OTHER)),
        (IDMAPPED, PathUse("/", "idmapped", ONE)),
        # Two kernels' worth of caches write to one disk.
        (IMAGE, IMAGE),
        (IMAGE, IMAGE_BELOW),
        (IMAGE, PathUse("/r", "auto", ONE, is_image=True)),
        # Whatever it will be.
        (AUTO, PathUse("/r", "chown", OTHER)),
        (AUTO, PathUse("/r", "idmapped", OTHER)),
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
