# SPDX-License-Identifier: Apache-2.0
"""Sources of volumes: what is followed, left out and refused."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_userns.exceptions import (
    NotIdmappableError,
    RootfsError,
)
from lxc_userns.linux import directory, mounts
from lxc_userns.rootfs.views import volumes
from lxc_userns.spec.volume import Volume
from tests.functional import images
from tests.functional.conftest import FilesystemFactory
from tests.functional.descriptors import own_descriptors
from tests.functional.rootfs.volume_host import (
    ALICE,
    ONE,
    Host,
    hidden,
    host,
    image,
    make_tree,
    owner,
    seen,
)

__all__ = ["hidden", "host", "image"]

pytestmark = pytest.mark.needs("mounts")


def test_a_source_that_is_replaced_is_not_followed(
    host: Host, hidden: Path
) -> None:
    victim = make_tree(hidden.parent / "victim")
    (hidden.parent / "file").touch()
    for name, kind in (("tree", "chown"), ("file", "none")):
        path = hidden.parent / name
        with volumes.opened(Volume.parse(f"{path}:/data:{kind}")) as source:
            path.rename(path.with_name("moved"))
            path.symlink_to("victim")
            point = host.mount_source(source)
            assert os.path.samefile(point, path.with_name("moved"))
        host.views.unmount("one")
        path.with_name("moved").rename(path.with_name(f"{name}-done"))
    assert owner(victim) == (0, 0)
    assert owner(victim / "alice") == (ALICE, ALICE)


def test_no_link_is_followed(hidden: Path) -> None:
    link = hidden.parent / "link"
    link.symlink_to(hidden.name)
    (hidden / "inner").mkdir()
    for source in (link, link / "inner"):
        for options in ("ro", "none", "owned"):
            volume = Volume.parse(f"{source}:/data:{options}")
            with (
                pytest.raises(RootfsError, match=f"{link} is a symbolic link"),
                volumes.opened(volume),
            ):
                pytest.fail("was opened")


def test_what_is_mounted_in_a_source_is_left_out(
    host: Host, hidden: Path
) -> None:
    # As everything is shared where systemd runs.
    subprocess.run(["mount", "-t", "tmpfs", "none", hidden], check=True)
    subprocess.run(["mount", "--make-shared", hidden], check=True)
    try:
        for name in ("before", "after"):
            (hidden / name).mkdir()
        mount = ["mount", "-t", "tmpfs", "none"]
        subprocess.run([*mount, hidden / "before"], check=True)
        (hidden / "before/file").touch()
        points = [
            host.mount(f"{hidden}:/data:{owners},ro", instance=owners)
            for owners in ("idmap", "none")
        ]
        subprocess.run([*mount, hidden / "after"], check=True)
        (hidden / "after/file").touch()
        for point in points:
            assert not any((point / "before").iterdir())
            assert not any((point / "after").iterdir())
    finally:
        # Not --recursive, which takes off what lies below that as well.
        for name in ("before", "after", "."):
            subprocess.run(["umount", hidden / name], check=True)


def test_what_cannot_be_idmapped(host: Host, hidden: Path) -> None:
    subprocess.run(["mount", "-t", "ramfs", "none", hidden], check=True)
    hidden.chmod(0o755)
    make_tree(hidden)
    cannot = "ramfs cannot be idmapped by this kernel; give the volume"
    with pytest.raises(NotIdmappableError) as raised:
        host.mount(f"{hidden}:/data")
    assert f"{cannot} the option none or chown" in str(raised.value)
    with pytest.raises(NotIdmappableError) as raised:
        host.mount(f"{hidden / 'root'}:/data")
    assert str(raised.value).endswith(f"{cannot} the option none")
    assert seen(host.mount(f"{hidden}:/data:none"), "cat alice") == "alice"


@pytest.mark.needs("ext4")
def test_ext3_can_be_idmapped_as_ext4(
    host: Host, loop_filesystem: FilesystemFactory, tmp_path: Path
) -> None:
    root = loop_filesystem("ext4")
    image = tmp_path / "ext3.image"
    images.make_image("ext3", image, 16)
    point = root / "point"
    point.mkdir()
    mount = ["mount", "-t", "ext3", "-o", "loop"]
    subprocess.run([*mount, image, point], check=True)
    try:
        with pytest.raises(NotIdmappableError, match="with type ext4"):
            host.mount(f"{point}:/data")
    finally:
        subprocess.run(["umount", point], check=True)


def make_fifo(path: Path) -> str:
    os.mkfifo(path / "fifo")
    return f"{path}/fifo"


def make_device(path: Path) -> str:
    os.mknod(path / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    return f"{path}/device"


def make_link(path: Path) -> str:
    (path / "link").symlink_to("/proc/self/fdinfo")
    return f"{path}/link"


def make_loop(path: Path) -> str:
    (path / "loop").symlink_to("loop")
    return f"{path}/loop"


NO_KIND = "is neither a directory nor a regular file nor a socket"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: f"{path}/nothing", "No such file or directory"),
        (lambda path: f"{path}/root/x", "Not a directory"),
        (make_loop, "loop is a symbolic link, to 'loop'"),
        (make_fifo, NO_KIND),
        (make_device, NO_KIND),
        (lambda _: "/dev/null", NO_KIND),
        (lambda _: "/proc", "is on proc, which shows the kernel's state"),
        (lambda _: "/proc/1/status", "is on proc"),
        (lambda _: "/proc/self/status", "self is a symbolic link"),
        (lambda _: "/sys/kernel", "is on sysfs"),
        (make_link, "link is a symbolic link, to '/proc/self/fdinfo'"),
        (lambda _: "/proc/1/ns/mnt", "mnt is a symbolic link"),
        (lambda path: f"{path}/root:/x:chown", "only those are shifted"),
    ],
)
def test_sources_that_are_refused(
    hidden: Path, make: Callable[[Path], str], reason: str
) -> None:
    source, _, rest = make(hidden).partition(":")
    before = own_descriptors()
    volume = Volume.parse(f"{source}:{rest or '/data'}")
    with (
        pytest.raises(RootfsError, match=reason) as raised,
        volumes.opened(volume),
    ):
        pytest.fail("was opened")
    assert raised.value.path == source
    assert own_descriptors() == before


def test_a_failure_leaves_nothing(host: Host, hidden: Path) -> None:
    known = [mount.number for mount in mounts.read_mounts()]
    before = own_descriptors()
    with (
        volumes.opened(Volume.parse(f"{hidden}:/data")) as source,
        directory.opened(hidden.parent) as parent,
    ):
        # It is a file; the mount point would have to be a directory.
        (hidden.parent / "point").touch()
        with pytest.raises(RootfsError, match="Invalid argument"):
            source.mount(ONE, parent, "point")
        (hidden.parent / "link").symlink_to("tree")
        with pytest.raises(RootfsError):
            source.mount(ONE, parent, "link")
    assert [mount.number for mount in mounts.read_mounts()] == known
    assert own_descriptors() == before
