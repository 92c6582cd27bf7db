# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests as root, on the real kernel and a real libvirtd."""

import contextlib
import gc
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import libvirt
import pytest

from lxc_userns.manager import UserNamespaceManager
from tests.functional import images
from tests.functional.capabilities import in_private_libvirtd, require
from tests.functional.command_line import CommandLine
from tests.functional.descriptors import own_descriptors

#: How long a test takes that needs this, compared with one of files alone.
_WEIGHTS = {"containers": 5, "private-libvirtd": 20}


def pytest_configure() -> None:
    """Put the tests' files where set-user-ID programs are such.

    In Debian 13 ``/tmp`` is in memory, and without.
    """
    if os.statvfs(tempfile.gettempdir()).f_flag & os.ST_NOSUID:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/var/tmp")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first, lest one be left to the end."""
    weights: dict[str, int] = Counter()
    for item in items:
        needs = {name for mark in item.iter_markers("needs")
                 for name in mark.args}  # fmt: skip
        weights[_module(item)] += max(
            [_WEIGHTS[name] for name in needs & _WEIGHTS.keys()], default=1
        )
    items.sort(key=lambda item: (-weights[_module(item)], _module(item)))


def _module(item: pytest.Item) -> str:
    return item.nodeid.split("::")[0]


@pytest.fixture(autouse=True)
def capable(request: pytest.FixtureRequest) -> None:
    """Skip a test whose ``needs`` this machine does not have."""
    require("root")
    for marker in request.node.iter_markers("needs"):
        require(*marker.args)


@pytest.fixture(autouse=True)
def no_descriptor_left(capable: None) -> Iterator[None]:
    """Fail a test after which this process has more open."""
    before = own_descriptors()
    yield
    if own_descriptors().total() > before.total():
        # Some may be in cycles, as of errors that the test has caught.
        gc.collect()
        after = own_descriptors()
        assert after.total() <= before.total(), after - before


class LastingConnection:
    """A connection to libvirtd, made anew if that was started anew."""

    def __init__(self) -> None:
        self._connection = libvirt.open("lxc:///")

    def __getattr__(self, name: str) -> Any:
        try:
            self._connection.getLibVersion()
        except libvirt.libvirtError:
            self._connection = libvirt.open("lxc:///")
        return getattr(self._connection, name)


@pytest.fixture(scope="session")
def libvirt_connection() -> Iterator[libvirt.virConnect]:
    """Connect to the libvirtd of ``tools/private-libvirtd``.

    Domains that a test leaves behind are destroyed at the end.
    """
    require("containers")
    if not in_private_libvirtd():
        pytest.fail(
            "not inside a private libvirtd; run: tools/private-libvirtd "
            ".venv/bin/pytest tests/functional",
            pytrace=False,
        )
    # Errors come as exceptions; libvirt would print them as well.
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = cast(libvirt.virConnect, LastingConnection())
    yield connection
    for domain in connection.listAllDomains():
        with contextlib.suppress(libvirt.libvirtError):
            domain.destroy()
        with contextlib.suppress(libvirt.libvirtError):
            domain.undefine()
    connection.close()


@pytest.fixture
def reachable_path() -> Iterator[Path]:
    """Make a directory that the mapped root of a container can reach.

    ``tmp_path`` is none: a directory above it is for its owner alone.
    """
    with reachable_directory() as path:
        yield path


@contextlib.contextmanager
def reachable_directory() -> Iterator[Path]:
    """Make the directory of ``reachable_path``, and remove it."""
    path = Path(tempfile.mkdtemp(prefix="lxc-userns-", dir="/var/tmp"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a tree with what may be mounted or immutable in it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    for point in reversed(points):
        if Path(point).is_relative_to(path):
            subprocess.run(["umount", "--lazy", point], check=True)
    argv = ["chattr", "-R", "-f", "-i", "-a", str(path)]
    subprocess.run(argv, stderr=subprocess.DEVNULL)
    shutil.rmtree(path)


CommandLineFactory = Callable[[str], CommandLine]


@pytest.fixture
def command_line(
    libvirt_connection: libvirt.virConnect,
    tmp_path: Path,
    reachable_path: Path,
) -> Iterator[CommandLineFactory]:
    """Make the program with a configuration of its own.

    ``command_line(extra)`` takes lines for ``[lxc_userns]``. Containers are
    destroyed at the end.
    """
    made: list[CommandLine] = []

    def make(extra: str) -> CommandLine:
        cli = CommandLine.make(tmp_path, reachable_path / "run", extra)
        made.append(cli)
        return cli

    yield make
    for cli in made:
        for container in cli.json("container", "list"):
            cli("container", "destroy", container["name"])
        assert cli.mounts() == []


@pytest.fixture
def manager(cli: CommandLine) -> UserNamespaceManager:
    """The manager behind the program of a module."""
    return cli.manager()


@pytest.fixture
def shared_rootfs(reachable_path: Path) -> Path:
    """Make a small tree that a container without views can reach."""
    path = reachable_path / "rootfs"
    images.make_busybox(path)
    return path


FilesystemFactory = Callable[[str], Path]


@pytest.fixture
def loop_filesystem(tmp_path: Path) -> Iterator[FilesystemFactory]:
    """Make and mount file systems, each in an image file of its own.

    ``loop_filesystem(kind)`` takes ``ext2``, ``ext3``, ``ext4``, ``xfs``,
    ``btrfs`` or ``tmpfs`` and returns the root directory of a new one, of
    512 MiB.
    """
    mounted: list[Path] = []

    def make(kind: str) -> Path:
        require("mounts" if kind == "tmpfs" else kind)
        directory = tmp_path / f"{kind}-{len(mounted)}"
        directory.mkdir()
        mount_new(kind, directory)
        mounted.append(directory)
        return directory

    yield make
    for directory in mounted:
        # The kernel detaches the loop device with the last mount.
        subprocess.run(["umount", directory], check=True, timeout=60)
        directory.with_suffix(".image").unlink(missing_ok=True)


def mount_new(kind: str, directory: Path) -> None:
    """Make a file system and mount it."""
    if kind == "tmpfs":
        argv = ["mount", "-t", kind, "-o", "size=512M,mode=755", kind]
    else:
        image = images.make_image(kind, directory.with_suffix(".image"), 512)
        argv = ["mount", "-t", kind, "-o", "loop", str(image)]
    subprocess.run([*argv, str(directory)], check=True, timeout=60)


@pytest.fixture
def busybox_rootfs(tmp_path: Path) -> Path:
    """Make a small root file system; its owners are guest IDs.

    It has a shell and the usual programs, root and ``alice`` (1000), whose
    passwords are empty, and ``su`` with set-user-ID.
    """
    path = tmp_path / "busybox-rootfs"
    images.make_busybox(path)
    return path


DebianFactory = Callable[[str, Path], Path]


@pytest.fixture
def debian_rootfs() -> DebianFactory:
    """Unpack a Debian root file system; its owners are guest IDs.

    ``debian_rootfs(init, path)`` takes ``sysvinit`` or ``systemd``, and a
    directory to make. It returns that directory. The image is made once per
    machine.
    """
    return images.unpack_debian
