# SPDX-License-Identifier: Apache-2.0
"""ACLs and file capabilities of an image that the kernel cannot read."""

import os
import struct
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.rootfs.shifting import setuid_scan
from tests.functional import guest, images
from tests.functional.capabilities import require
from tests.functional.conftest import remove_tree
from tests.functional.rootfs import golden
from tests.functional.rootfs.kill import run_and_kill

MAPS = golden.maps("0:100000:65536")
#: Found on the disk again.
SETS, FLAGGED_SETS = b"sixteen bytes :)", b"sixteen bytes :("
NAMED = 54321


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """Make an ext4 without checksums, and damage attributes on it."""
    require("ext4")
    path = tmp_path / "mounted"
    path.mkdir(mode=0o700)
    options = "-O", "^metadata_csum"
    image = images.make_image("ext4", tmp_path / "image", 8, *options)
    guest.call("mount", "-o", "loop", image, path)
    fill(path)
    guest.call("umount", path)
    damage(image)
    guest.call("mount", "-o", "loop", image, path)
    yield path / "tree"
    remove_tree(path)


def fill(path: Path) -> None:
    (path / "tree" / "directory").mkdir(parents=True)
    caps = struct.pack("<I", 0x02000001) + SETS
    named = golden.acl(
        (0x01, 6, golden.NO_ID),
        (0x02, 6, NAMED),
        (0x04, 4, golden.NO_ID),
        (0x10, 6, golden.NO_ID),
        (0x20, 4, golden.NO_ID),
    )
    for name in ("caps", "acl", "suid", "unmapped", "flagged"):
        (path / "tree" / name).touch()
    for name in ("unmapped", "flagged"):
        os.chown(path / "tree" / name, golden.UNMAPPED, golden.UNMAPPED)
    (path / "tree" / "flagged").chmod(0o755)
    for name in ("caps", "unmapped"):
        os.setxattr(path / "tree" / name, golden.CAPABILITY, caps)
    flagged = struct.pack("<I", 0x02000001) + FLAGGED_SETS
    os.setxattr(path / "tree" / "flagged", golden.CAPABILITY, flagged)
    for name in ("acl", "suid"):
        os.setxattr(path / "tree" / name, golden.ACCESS, named)
    os.setxattr(path / "tree" / "directory", golden.DEFAULT, named)
    (path / "tree" / "suid").chmod(0o4664)


def damage(image: Path) -> None:
    """Give all of them a version that there is not."""
    data = bytearray(image.read_bytes())
    # As the kernel keeps them: the version, then the entries.
    owner = struct.pack("<2H", 0x01, 6)
    named = struct.pack("<2HI", 0x02, 6, NAMED)
    kinds = [
        (struct.pack("<I", 1) + owner + named, 0),
        (struct.pack("<I", 0x02000001) + SETS, 3),
        # Only a flag, with which execve(2) takes them all the same.
        (struct.pack("<I", 0x02000001) + FLAGGED_SETS, 0),
    ]
    for found, at in kinds:
        place = -1
        while (place := data.find(found, place + 1)) >= 0:
            data[place + at] |= 8
    image.write_bytes(data)


def look(tree: Path) -> dict[str, tuple[int, int, int]]:
    found = {path.name: path.stat() for path in (tree, *tree.iterdir())}
    return {n: (s.st_uid, s.st_gid, s.st_mode) for n, s in found.items()}


def shifted(seen: dict[str, tuple[int, int, int]]) -> dict[str, object]:
    owner = golden.mapped((0, 100000, 65536))
    return {n: (owner(u), owner(g), mode) for n, (u, g, mode) in seen.items()}


def test_they_are_in_the_way_of_nothing(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, attribute in (
        ("caps", golden.CAPABILITY),
        ("acl", golden.ACCESS),
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            os.getxattr(tree / name, attribute)
    before = look(tree)
    assert setuid_scan.find(str(tree), 9) == ["/flagged"]
    rootfs.shift(tree, MAPS)
    assert os.listxattr(tree / "flagged") == []
    assert look(tree) == shifted(before)
    assert rootfs.verify(tree).ok
    # With one of these the kernel changes no mode.
    for name in ("suid", "caps", "unmapped", "flagged"):
        assert f"{tree}/{name}: a note" in caplog.text
    rootfs.unshift(tree)
    assert look(tree) == before


def test_killed_before_every_change(tree: Path) -> None:
    before = look(tree)
    shift = partial(rootfs.shift, tree, MAPS, workers=1)
    for at in count(1):
        died = run_and_kill(shift, at)
        if at % 2:
            shift()
            assert look(tree) == shifted(before)
        if rootfs.read_state(tree) is not None:
            rootfs.unshift(tree)
        assert look(tree) == before
        if not died:
            break
    assert at > 8
