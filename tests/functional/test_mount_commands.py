# SPDX-License-Identifier: Apache-2.0
"""``rootfs mount`` and ``unmount``, and what ``host check`` says of mounts."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional import guest
from tests.functional.command_line import BASE, ID_MAP, CommandLine, call
from tests.functional.conftest import FilesystemFactory

pytestmark = pytest.mark.needs("mounts", "user-namespaces")
MAPS = ("--uid-map", ID_MAP, "--gid-map", ID_MAP)
OTHER_MAP = "0:1950000000:65536"


@pytest.fixture
def cli(tmp_path: Path, reachable_path: Path) -> CommandLine:
    return CommandLine.make(tmp_path, reachable_path / "run")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory that only root can reach."""
    path = tmp_path / "store/tree"
    path.mkdir(parents=True)
    path.parent.chmod(0o700)
    (path / "file").touch()
    return path


@pytest.fixture
def view(reachable_path: Path) -> Iterator[Path]:
    path = reachable_path / "view"
    path.mkdir()
    yield path
    while guest.mountinfo(path):
        guest.call("umount", path)


def done(code: int, out: str, err: str) -> bool:
    return (code, out, err) == (0, "", "")


def owner(path: Path) -> int:
    return path.stat().st_uid


def test_mounted_and_unmounted(
    cli: CommandLine, tree: Path, view: Path
) -> None:
    for maps, base in (
        ((), BASE),
        (("--uid-map", OTHER_MAP, "--gid-map", OTHER_MAP), 1_950_000_000),
    ):
        result = cli("rootfs", "mount", *maps, tree, view)
        assert done(result.code, result.out, result.err), result
        assert owner(view / "file") == base
        assert owner(tree / "file") == 0
        result = cli("rootfs", "unmount", view)
        assert done(result.code, result.out, result.err), result
        assert guest.mountinfo(view) == []


def test_an_overlay(
    cli: CommandLine, tree: Path, view: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state of one, two: three"
    for new in ("one", "two"):
        assert cli("rootfs", "mount", tree, view, "--overlay", state).code == 0
        assert owner(view / "file") == BASE
        (view / new).touch()
        assert cli("rootfs", "unmount", view).code == 0
    assert {path.name for path in (state / "upper").iterdir()} == {
        "one", "two",
    }  # fmt: skip
    assert os.listdir(tree) == ["file"]
    error = cli(
        *("rootfs", "mount", tree, view, "--overlay", state),
        *("--uid-map", OTHER_MAP, "--gid-map", OTHER_MAP),
    ).error()
    assert error.startswith(f"{state}: holds what was changed on {tree} with")


@pytest.mark.needs("ext4")
def test_an_image(
    cli: CommandLine, view: Path, loop_filesystem: FilesystemFactory
) -> None:
    mounted = loop_filesystem("ext4")
    (mounted / "file").touch()
    image = mounted.with_suffix(".image")
    error = cli("rootfs", "mount", image, view).error()
    assert error.startswith(f"{image}: is in use already")
    guest.call("umount", mounted)
    assert cli("rootfs", "mount", image, view).code == 0
    assert owner(view / "file") == BASE
    assert cli("rootfs", "unmount", view).code == 0
    guest.call("mount", "-o", "loop", image, mounted)


def test_links_and_relative_paths(
    cli: CommandLine, tree: Path, view: Path
) -> None:
    (view.parent / "link").symlink_to(tree)
    result = cli("rootfs", "mount", "link", "./view/", cwd=view.parent)
    assert result.code == 0, result
    assert owner(view / "file") == BASE
    result = cli("rootfs", "unmount", "view/.", cwd=view.parent)
    assert result.code == 0, result
    (view.parent / "to-view").symlink_to(view)
    error = cli("rootfs", "mount", tree, view.parent / "to-view").error()
    assert error.endswith("a symbolic link; give the directory it leads to")


def test_what_fails_names_path_and_fix(
    cli: CommandLine,
    tree: Path,
    view: Path,
    loop_filesystem: FilesystemFactory,
) -> None:
    ext3 = loop_filesystem("ext3")
    (ext3 / "tree").mkdir()
    assert cli("rootfs", "mount", ext3 / "tree", view).error() == (
        f"{ext3}/tree: ext3 cannot be idmapped by this kernel; mount it with "
        "type ext4, whose driver reads it as well"
    )
    open_tree = view.parent / "store/tree"
    open_tree.mkdir(parents=True)
    error = cli("rootfs", "mount", open_tree, view).error()
    assert error.startswith(f"{open_tree}: users of the host can reach it, ")
    assert f"; chmod 0700 {open_tree.parent}, or " in error
    error = cli("rootfs", "unmount", view).error()
    assert error == f"{view}: nothing is mounted there; give a mount point"
    error = cli("rootfs", "mount", tree / "absent", view).error()
    assert error == f"{tree}/absent: No such file or directory"


@pytest.mark.parametrize(
    "arguments",
    [
        ["mount"],
        ["mount", "/a"],
        ["mount", "/a", "/b", "/c"],
        ["mount", "/a", "/b", "--overlay"],
        ["mount", "/a", "/b", "--bogus"],
        ["unmount"],
        ["unmount", "/a", "/b"],
    ],
)
def test_wrong_usage(cli: CommandLine, arguments: list[str]) -> None:
    result = cli("rootfs", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    verb = arguments[0]
    assert result.err.endswith(f"; see lxc-userns rootfs {verb} --help\n")


def test_without_id_maps(tmp_path: Path, tree: Path, view: Path) -> None:
    empty = tmp_path / "empty.conf"
    empty.touch()
    result = call("--config-file", empty, "rootfs", "mount", tree, view)
    assert "--uid-map, --gid-map: are needed" in result.error()
    result = call(
        *("--config-file", empty, "rootfs", "mount", tree, view),
        *("--uid-map", ID_MAP),
    )
    assert "--gid-map: is needed beside" in result.error()
    result = call(
        *("--config-file", empty, "rootfs", "mount", tree, view, *MAPS)
    )
    assert result.code == 0
    # What is mounted can be unmounted whatever is configured.
    assert call("--config-file", empty, "rootfs", "unmount", view).code == 0


def test_without_root(cli: CommandLine, tree: Path, view: Path) -> None:
    # The program's own directory is not everybody's: it gets there as root.
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    result = call(
        *("--config-file", cli.config, "rootfs", "mount", tree, view),
        prefix=drop,
    )
    assert "its mount cannot be copied: no permission" in result.error()


def checked(cli: CommandLine) -> dict[str, tuple[str, str, str]]:
    """Return the checks of the host, by name."""
    result = cli("host", "check", "-f", "json")
    assert result.code in (0, 1)
    return {
        line["check"]: (line["status"], line["message"], line["remedy"])
        for line in json.loads(result.out)
    }


def test_host_check_tries_each_filesystem(
    cli: CommandLine,
    tree: Path,
    view: Path,
    tmp_path: Path,
    loop_filesystem: FilesystemFactory,
) -> None:
    good = [loop_filesystem(kind) for kind in ("ext4", "xfs", "btrfs")]
    old = loop_filesystem("ext3")
    merged = loop_filesystem("tmpfs")
    for name in ("lower", "upper", "work"):
        (old / name).mkdir()
    layers = ",".join(f"{n}dir={old}/{n}" for n in ("lower", "upper", "work"))
    guest.call("mount", "-t", "overlay", "none", "-o", layers, merged)
    second = tmp_path / "second"
    second.mkdir()
    guest.call("mount", "--bind", good[0], second)
    cli("rootfs", "mount", tree, view)
    before = mounts()
    found = checked(cli)
    assert mounts() == before
    guest.call("umount", merged, second)
    for path in good:
        kind = path.name.partition("-")[0]
        assert found[f"idmapped mounts on {path}"] == (
            "PASS",
            f"{kind} can be idmapped",
            "",
        )
    assert found[f"idmapped mounts on {old}"] == (
        "WARN",
        "ext3 cannot be idmapped by this kernel",
        "mount it with type ext4, whose driver reads it as well",
    )
    status, message, remedy = found[f"idmapped mounts on {merged}"]
    assert status == "WARN"
    assert message.startswith("overlay cannot be idmapped")
    assert "its layers can be" in remedy
    points = [name for name in found if name.startswith("idmapped mounts on")]
    # Once for a filesystem, and not for what is ours or the kernel's.
    for place in (str(second), str(view), "/proc", "/sys", "/dev/pts"):
        assert f"idmapped mounts on {place}" not in points


def mounts() -> str:
    """All mounts, without what changes by itself."""
    text = Path("/proc/self/mountinfo").read_text()
    return re.sub(r"(?m)^\d+ ", "", text)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "ext3"])
def test_host_check_tries_an_overlay(
    tmp_path: Path, loop_filesystem: FilesystemFactory, kind: str
) -> None:
    place = loop_filesystem(kind)
    cli = CommandLine.make(place, tmp_path / "run")
    cli.state.mkdir(mode=0o700)
    status, message, remedy = checked(cli)["overlays"]
    assert f"upper layer in {cli.state}" in message
    if kind == "ext3":
        assert status == "WARN"
        assert "none with" in message
        assert "mount it with type ext4" in remedy
    elif kind == "xfs":
        # Kernels may learn it.
        assert status == "PASS" or "spoils ACLs" in message
    else:
        assert status == "PASS"
    assert list(cli.state.iterdir()) == []


def test_host_check_without_a_place_for_overlays(
    tmp_path: Path, loop_filesystem: FilesystemFactory
) -> None:
    place = loop_filesystem("tmpfs")
    cli = CommandLine.make(tmp_path, tmp_path / "run")
    text = cli.config.read_text()
    cli.config.write_text(text.replace(str(cli.state), f"{place}/state"))
    guest.call("mount", "-o", "remount,ro", place)
    status, message, _ = checked(cli)["overlays"]
    assert status == "WARN"
    assert message == f"not tried in {place}: Read-only file system"
