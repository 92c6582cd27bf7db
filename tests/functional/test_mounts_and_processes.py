# SPDX-License-Identifier: Apache-2.0
"""The kernel interface of views and of verification, on the real kernel."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_userns import IdMap, IdMaps
from lxc_userns.exceptions import ConfigError, RootfsError
from lxc_userns.linux import directory, mounts, openat2
from lxc_userns.linux.process import Process
from lxc_userns.linux.processes import children
from lxc_userns.rootfs.views import mountpoints
from lxc_userns.rootfs.views import source as backing
from tests import system_calls
from tests.functional import guest

needs_mounts = pytest.mark.needs("mounts")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    with directory.opened(path) as fd:
        yield fd


def options_of(point: Path) -> set[str]:
    """The options of the topmost mount on a path."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line.split() for line in lines if line.split()[4] == str(point)]
    return set(found[-1][5].split(","))


@pytest.fixture
def place(reachable_path: Path) -> Path:
    """A directory with ``source/file`` and the mount point ``point``."""
    (reachable_path / "source").mkdir()
    (reachable_path / "source/file").write_text("x")
    (reachable_path / "point").mkdir()
    return reachable_path


@needs_mounts
def test_bind_and_unmount(place: Path) -> None:
    with opened(place / "source") as source, opened(place) as parent:
        assert not mounts.is_mount_point(parent, "point")
        mounts.bind(source, parent, "point")
        assert mounts.is_mount_point(parent, "point")
        assert (place / "point/file").read_text() == "x"
        assert "nodev" in options_of(place / "point")
        assert str(place / "point") in [
            mount.point for mount in mounts.read_mounts()
        ]
    with opened(place) as parent:
        mounts.unmount(parent, "point")
        assert not mounts.is_mount_point(parent, "point")
        with pytest.raises(OSError, match="Invalid argument") as raised:
            mounts.unmount(parent, "point")
        assert raised.value.errno == errno.EINVAL


@needs_mounts
def test_bind_keeps_what_the_source_forbids(place: Path) -> None:
    source = place / "source"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "nosuid,noexec", "none", source],
        check=True,
    )
    with opened(source) as fd, opened(place) as parent:
        mounts.bind(fd, parent, "point")
    assert {"nosuid", "noexec", "nodev"} <= options_of(place / "point")


@needs_mounts
def test_bind_leaves_submounts_out(place: Path) -> None:
    (place / "source/sub").mkdir()
    sub = place / "source/sub"
    subprocess.run(["mount", "-t", "tmpfs", "none", sub], check=True)
    (sub / "hidden").touch()
    with opened(place / "source") as source, opened(place) as parent:
        mounts.bind(source, parent, "point")
    assert list((place / "point/sub").iterdir()) == []


@needs_mounts
def test_a_busy_mount_is_not_unmounted(place: Path) -> None:
    with opened(place / "source") as source, opened(place) as parent:
        mounts.bind(source, parent, "point")
        with (
            opened(place / "point"),
            pytest.raises(OSError, match="busy") as raised,
        ):
            mounts.unmount(parent, "point")
        assert raised.value.errno == errno.EBUSY
        assert mounts.is_mount_point(parent, "point")
        with opened(place / "point"):
            mounts.unmount(parent, "point", lazy=True)
        assert not mounts.is_mount_point(parent, "point")


@needs_mounts
def test_links_are_no_mount_points(place: Path) -> None:
    (place / "link").symlink_to("point")
    with opened(place / "source") as source, opened(place) as parent:
        with pytest.raises(NotADirectoryError):
            mounts.bind(source, parent, "link")
        assert not mounts.is_mount_point(parent, "link")
        mounts.bind(source, parent, "point")
        with pytest.raises(OSError, match="Invalid argument"):
            mounts.unmount(parent, "link")
        assert mounts.is_mount_point(parent, "point")


@needs_mounts
def test_names_with_blanks_in_the_list_of_mounts(place: Path) -> None:
    odd = place / "a b\\c"
    odd.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", odd], check=True)
    (found,) = [m for m in mounts.read_mounts() if m.point == str(odd)]
    assert found.fs_type == "tmpfs"
    with opened(odd) as fd:
        assert found.number == mounts.mount_id(fd)
    subprocess.run(["umount", odd], check=True)


def test_paths_are_followed_as_in_the_container(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").touch()
    (tmp_path / "absolute").symlink_to("/etc/passwd")
    (tmp_path / "upwards").symlink_to("../../../../etc/passwd")
    (tmp_path / "nowhere").symlink_to("/etc/shadow")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    inside = (tmp_path / "etc/passwd").stat().st_ino
    with opened(tmp_path) as root:
        for path in ("/etc/passwd", "absolute", "/upwards", "../etc/passwd"):
            assert openat2.lookup(root, path).st_ino == inside
        assert openat2.lookup(root, "fifo").st_ino  # It did not wait.
        with pytest.raises(FileNotFoundError):
            openat2.lookup(root, "nowhere")
        with pytest.raises(OSError, match="symbolic links"):
            openat2.lookup(root, "loop")


@needs_mounts
@pytest.mark.parametrize(
    "call", [system_calls.OPEN_TREE, system_calls.MOUNT_SETATTR]
)
def test_bind_on_kernels_before_mount_setattr(place: Path, call: int) -> None:
    source = place / "source"
    options = "nosuid,noexec"
    guest.call("mount", "-t", "tmpfs", "-o", options, "none", source)
    guest.call("mount", "--make-shared", source)
    (source / "sub").mkdir()
    with (
        opened(source) as fd,
        opened(place) as parent,
        system_calls.failing(call),
    ):
        mounts.bind(fd, parent, "point")
    assert {"nosuid", "noexec", "nodev"} <= options_of(place / "point")
    guest.call("mount", "-t", "tmpfs", "none", source / "sub")
    (source / "sub/hidden").touch()
    assert list((place / "point/sub").iterdir()) == []


@needs_mounts
def test_what_is_known_of_a_mount(place: Path) -> None:
    inner = place / "source/a b"
    inner.mkdir()
    guest.call("mount", "-t", "tmpfs", "so urce\\", place / "source")
    inner.mkdir()
    guest.call("mount", "--bind", "-o", "ro", inner, place / "point")
    with opened(place / "point") as fd:
        found = mounts.find_mount(fd)
        number = os.fstat(fd).st_dev
    assert found is not None
    assert (found.point, found.root) == (str(place / "point"), "/a b")
    assert (found.fs_type, found.source) == ("tmpfs", "so urce\\")
    assert found.device == f"{os.major(number)}:{os.minor(number)}"
    assert "ro" in found.options
    assert mounts.points_below(str(place)) == [
        str(place / "source"),
        str(place / "point"),
    ]
    assert mounts.points_below(str(place / "poin")) == []


@pytest.fixture
def views_of(reachable_path: Path) -> mountpoints.Views:
    return mountpoints.Views(str(reachable_path / "run"))


def mount_plain(
    views_of: mountpoints.Views, source: Path, id_maps: IdMaps | None = None
) -> None:
    """Mount a view of a directory as it is."""
    with backing.open_source(str(source)) as tree:
        views_of.mount("web1", "root", id_maps, tree.bind)


@needs_mounts
def test_a_view_comes_and_goes(
    views_of: mountpoints.Views, place: Path
) -> None:
    source = place / "source"
    for _ in range(2):
        mount_plain(views_of, source)
    point = place / "run/web1/root"
    assert os.path.samefile(point, source)
    assert views_of.path("web1", "root") == str(point)
    assert views_of.is_mounted("web1")
    assert not views_of.is_mounted("web2")
    assert (place / "run").stat().st_mode & 0o7777 == 0o711
    # Without ID maps the container's root is the host's.
    assert (place / "run/web1").stat().st_mode & 0o7777 == 0o700
    views_of.unmount("web1")
    assert list((place / "run").iterdir()) == []
    views_of.unmount("web1")
    assert (source / "file").read_text() == "x"


@needs_mounts
def test_only_the_container_passes_to_its_views(
    views_of: mountpoints.Views, place: Path
) -> None:
    id_map = IdMap.parse("0:1900000000:65536")
    mount_plain(views_of, place / "source", IdMaps(id_map, id_map))
    status = (place / "run/web1").stat()
    assert status.st_mode & 0o7777 == 0o710
    assert (status.st_uid, status.st_gid) == (0, 1_900_000_000)
    views_of.unmount("web1")


@needs_mounts
def test_a_view_that_is_there_is_replaced(
    views_of: mountpoints.Views, place: Path
) -> None:
    other = place / "other"
    other.mkdir()
    point = place / "run/web1/root"
    for path in (other, place / "source"):
        mount_plain(views_of, path)
        assert os.path.samefile(point, path)
        points = [mount.point for mount in mounts.read_mounts()]
        assert points.count(str(point)) == 1
    # A view that has lost nodev is no longer right.
    subprocess.run(["mount", "-o", "remount,bind,dev", point], check=True)
    assert "nodev" not in options_of(point)
    mount_plain(views_of, place / "source")
    assert "nodev" in options_of(point)


@needs_mounts
def test_a_view_of_a_file(views_of: mountpoints.Views, place: Path) -> None:
    file = place / "source/file"

    def mount(parent: int, name: str) -> None:
        point = os.readlink(f"/proc/self/fd/{parent}")
        guest.call("mount", "--bind", file, f"{point}/{name}")

    for _ in range(2):
        views_of.mount("web1", "volume0", None, mount, is_directory=False)
    assert (place / "run/web1/volume0").read_text() == "x"
    assert views_of.is_mounted("web1")
    views_of.unmount("web1")
    assert list((place / "run").iterdir()) == []
    assert file.read_text() == "x"


@needs_mounts
def test_a_mounter_that_fails_leaves_nothing_mounted(
    views_of: mountpoints.Views, place: Path
) -> None:
    def fail(parent: int, name: str) -> None:
        raise RootfsError(name, "as if")

    mount_plain(views_of, place / "source")
    with pytest.raises(RootfsError, match="as if"):
        views_of.mount("web1", "root", None, fail)
    assert not views_of.is_mounted("web1")
    views_of.unmount("web1")
    assert list((place / "run").iterdir()) == []


@needs_mounts
def test_nothing_is_removed_below_which_something_is_mounted(
    views_of: mountpoints.Views, place: Path
) -> None:
    (place / "source/sub").mkdir()
    mount_plain(views_of, place / "source")
    sub = place / "run/web1/root/sub"
    subprocess.run(["mount", "-t", "tmpfs", "none", sub], check=True)
    busy = f"busy: unmount {sub} first"
    with pytest.raises(RootfsError, match=busy):
        views_of.unmount("web1")
    with pytest.raises(RootfsError, match=busy):
        mount_plain(views_of, place / "source")
    assert (place / "run/web1/root/file").read_text() == "x"


def test_run_paths_that_are_not_ours(
    views_of: mountpoints.Views, place: Path
) -> None:
    run = place / "run"

    def mount() -> None:
        mount_plain(views_of, place / "source")

    run.mkdir()
    run.chmod(0o755)
    with pytest.raises(ConfigError, match="has mode 0755, it may have"):
        mount()
    run.chmod(0o711)
    os.chown(run, 1000, 1000)
    with pytest.raises(ConfigError, match="belongs to user 1000"):
        mount()
    run.rmdir()
    run.symlink_to("source")
    with pytest.raises(ConfigError, match=r"\[lxc_userns\] run_path"):
        mount()
    run.unlink()
    place.chmod(0o700)
    with pytest.raises(ConfigError, match=f"pass through {place}"):
        mount()
    assert not views_of.is_mounted("web1")


def sleeps(pid: int) -> bool:
    """Whether a new process executes what it was made for."""
    return Path(f"/proc/{pid}/cmdline").read_text().startswith("sleep\0")


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The process ID of one that is first in its namespaces."""
    argv = ["unshare", "--user", "--map-root-user", "--pid"]
    argv += ["--fork", "--kill-child"]
    with subprocess.Popen(
        [*argv, "sleep", "1000"], stderr=subprocess.DEVNULL
    ) as parent:
        found: list[int] = []
        while not found:
            assert parent.poll() is None
            found = [each for each in children(parent.pid) if sleeps(each)]
        yield found[0]
        parent.kill()


@pytest.mark.needs("user-namespaces")
def test_a_process_and_its_end(sleeper: int) -> None:
    with Process("self") as this, Process(sleeper) as process:
        assert this.parent == os.getppid()
        assert not this.is_first
        assert process.is_first
        assert process.user_namespace != this.user_namespace
        assert process.uid_map == ((0, 0, 1),)
        assert process.gid_map == ((0, 0, 1),)
        assert sleeper not in children(os.getpid())
        process.send_signal(signal.SIGKILL)
        while Path(f"/proc/{sleeper}").exists():
            pass  # Until unshare has reaped it.
        for read in ("parent", "is_first", "uid_map", "user_namespace",
                     "executable", "program", "command"):  # fmt: skip
            with pytest.raises(ProcessLookupError):
                getattr(process, read)
        with pytest.raises(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        Process(sleeper)


@pytest.mark.needs("user-namespaces")
def test_what_a_process_executes() -> None:
    with (
        subprocess.Popen(["sleep", "1000"]) as one,
        Process(one.pid) as process,
        Process("self") as this,
    ):
        try:
            while not sleeps(one.pid):
                assert one.poll() is None
            assert process.command == "sleep"
            assert process.program in ("sleep", "coreutils", "busybox")
            assert process.executable != this.executable
            assert one.pid in children(os.getpid())
        finally:
            one.kill()
