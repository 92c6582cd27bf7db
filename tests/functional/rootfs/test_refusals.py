# SPDX-License-Identifier: Apache-2.0
"""Trees that cannot be shifted: refused in one line, nothing has changed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.exceptions import RootfsError
from tests.functional.conftest import remove_tree
from tests.functional.rootfs import golden

MAP = IdMap.parse("0:100000:65536")
MAPS = IdMaps(MAP, MAP)

ACTIONS: dict[str, Callable[[Path], object]] = {
    "shift": lambda path: rootfs.shift(path, MAPS),
    "dry-run": lambda path: rootfs.shift(path, MAPS, dry_run=True),
    "unshift": rootfs.unshift,
    "verify": lambda path: rootfs.verify(path, MAPS),
    "read_state": rootfs.read_state,
}


def refused(action: Callable[[], object], reason: str, path: str) -> None:
    with pytest.raises(RootfsError, match=reason) as caught:
        action()
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ACTIONS)
def test_path_is_no_directory(root: Path, name: str) -> None:
    action = ACTIONS[name]
    (root / "dir").mkdir()
    (root / "file").touch()
    (root / "link").symlink_to("dir")
    for path, reason in (
        (root / "absent", "no such directory"),
        (root / "file", "not a directory"),
        (root / "file" / "below", "not a directory"),
        (root / "link", "symbolic link"),
        (Path("/"), "root directory of this host"),
        (Path("/proc/self/root/tmp"), "self is a symbolic link"),
    ):
        refused(partial(action, path), reason, str(path))
    assert os.stat(root / "dir").st_uid == 0


def test_a_slash_does_not_make_a_link_a_directory(root: Path) -> None:
    (root / "dir").mkdir()
    (root / "link").symlink_to("dir")
    with pytest.raises(RootfsError, match="symbolic link"):
        rootfs.shift(f"{root}/link/", MAPS)
    assert rootfs.shift(f"{root}/dir//", MAPS).shifted == 1
    with pytest.raises(RootfsError, match="no such directory"):
        rootfs.shift("", MAPS)


def test_odd_path_is_one_line(root: Path) -> None:
    path = os.fsencode(root) + b"/absent\n\x1b[31m\xff"
    with pytest.raises(RootfsError) as caught:
        rootfs.shift(os.fsdecode(path), MAPS)
    assert str(caught.value).isprintable()


def test_never_shifted(root: Path) -> None:
    refused(lambda: rootfs.unshift(root), "it was not shifted", str(root))
    assert rootfs.read_state(root) is None


def test_read_only(root: Path) -> None:
    golden.build(root, small=True)
    before = golden.snapshot(root)
    subprocess.run(["mount", "--bind", root, root], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
    for unmapped in ("keep", "nobody"):
        refused(
            partial(rootfs.shift, root, MAPS, unmapped=unmapped),
            "read-only filesystem",
            str(root),
        )
    assert rootfs.shift(root, MAPS, dry_run=True).inodes > 10
    subprocess.run(["umount", root], check=True)
    assert golden.snapshot(root) == before


@pytest.mark.parametrize("flag", [golden.IMMUTABLE, golden.APPEND])
def test_flagged_root(root: Path, flag: int) -> None:
    golden.build(root, small=True)
    golden.set_flags(root, flag)
    before = golden.snapshot(root)
    refused(lambda: rootfs.shift(root, MAPS), "chattr -i -a", str(root))
    assert golden.snapshot(root) == before
    golden.set_flags(root, 0)


@pytest.fixture
def without_attributes(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mounted"
    path.mkdir()
    # ramfs keeps no attributes, and every kernel has it.
    argv = ["mount", "-t", "ramfs", "ramfs", str(path)]
    subprocess.run(argv, check=True)
    yield path
    remove_tree(path)


def test_no_trusted_attributes(without_attributes: Path) -> None:
    path = without_attributes / "tree"
    path.mkdir()
    (path / "file").touch()
    refused(lambda: rootfs.shift(path, MAPS), "no trusted", str(path))
    assert os.stat(path / "file").st_uid == os.stat(path).st_uid == 0


def test_not_root(root: Path) -> None:
    (root / "file").touch()
    code = (
        "import os, sys; from lxc_userns import IdMap, IdMaps, rootfs;"
        "from lxc_userns.exceptions import RootfsError;"
        "import lxc_userns.rootfs.shifting.shift;"
        "m = IdMap.parse('0:100000:65536');"
        "fd = os.open(sys.argv[1], os.O_RDONLY); os.fchdir(fd);"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: rootfs.shift('.', IdMaps(m, m))\n"
        "except RootfsError as err: print(err)"
    )
    argv = [sys.executable, "-c", code, str(root)]
    printed = subprocess.check_output(argv, text=True, timeout=30)
    assert printed == ".: permission denied (is this root?)\n"
    assert os.stat(root / "file").st_uid == 0


def test_no_room_for_transit(root: Path) -> None:
    half = IdMap.parse("0:1:4294967294")
    refused(
        lambda: rootfs.shift(root, IdMaps(half, half)),
        "no range is left",
        str(root),
    )
    assert golden.notes(golden.snapshot(root)) == []
