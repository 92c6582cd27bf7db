# SPDX-License-Identifier: Apache-2.0
"""Targets of volumes: where libvirt would mount them."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import libvirt
import pytest

from lxc_userns import domain, rootfs
from lxc_userns.exceptions import (
    RootfsError,
)
from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux import directory, mounts
from lxc_userns.rootfs.views import volumes
from lxc_userns.spec.volume import Volume
from tests.functional.descriptors import own_descriptors
from tests.functional.rootfs.volume_host import (
    BASE,
    ONE,
    Host,
    bind,
    hidden,
    host,
    image,
    owner,
)

__all__ = ["hidden", "host", "image"]

pytestmark = pytest.mark.needs("mounts")


def check(image: Path, *requests: str, hidden: Path) -> None:
    """Check the targets of directories, or of files after ``f:``."""
    with ExitStack() as stack:
        sources = []
        for request in requests:
            kind, _, target = request.rpartition(":")
            source = hidden / "root" if kind == "f" else hidden
            volume = Volume(str(source), target)
            sources.append(stack.enter_context(volumes.opened(volume)))
        root = stack.enter_context(directory.opened(image))
        volumes.check_targets(root, sources)


@pytest.mark.parametrize(
    "requests",
    [
        ["/srv"],
        ["/srv/a/new/deep"],
        ["/new"],
        ["/var/run/new"],
        ["/var/relative/new"],
        ["/var/up/new"],
        ["/chain39/a"],
        ["f:/etc/file"],
        ["f:/etc/fifo"],
        ["f:/etc/new"],
        ["f:/file"],
        ["f:/var/run/new"],
        # What is there is libvirt's, whatever the image has.
        ["/dev/shm"],
        ["f:/dev/log"],
        ["f:/dev/new/log"],
        # One within another.
        ["/srv", "/srv/new"],
        ["/srv/a", "/srv"],
        ["/new", "/new/within", "f:/new/root"],
        ["/a/b/c", "f:/a/b/c/alice"],
        ["/srv", "/var/run/srv", "/run/other"],
    ],
)
def test_targets(image: Path, hidden: Path, requests: list[str]) -> None:
    check(image, *requests, hidden=hidden)


LED = "a link in the root filesystem leads"


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        (["/old"], f"{LED} to /.oldroot/tmp, where libvirt mounts"),
        (["/old/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["/old2/tmp/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["/old3/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["f:/old/new"], f"{LED} to /.oldroot/tmp/new, where"),
        # What is there now is not what will be.
        (["/through"], f"{LED} to /proc/self/root/a, where"),
        (["/through/new"], f"{LED} to /proc/self/root/a/new, where"),
        (["/processes"], f"{LED} to /proc, where"),
        (["/devices/shm"], f"{LED} to /dev/shm, where"),
        (["/system/cgroup"], f"{LED} to /sys/fs/cgroup, where"),
        (["/top"], f"{LED} to the root directory"),
        (["/top2"], f"{LED} to the root directory"),
        (["/dangling"], f"{LED} to /nothing, which is not there"),
        (["/dangling/new"], f"{LED} to /nothing, which is not there"),
        (["f:/dangling"], f"{LED} to /nothing, which is not there"),
        (["/dangling2"], f"{LED} to /nothing, which is not there"),
        (["/loop"], f"{LED} on and on"),
        (["/chain41"], f"{LED} on and on"),
        (["/etc/file/new"], "/etc/file in it is not a directory"),
        (["/file/new"], "/etc/file in it is not a directory"),
        (["/etc/file"], "is no directory in the root filesystem, and"),
        (["f:/srv"], "is a directory in the root filesystem, and"),
        (["f:/new/file"], "its directory is not in the root filesystem"),
        (["f:/srv/new/file"], "its directory is not in the root filesystem"),
        (["/srv", "/srv"], "would hide the volume on /srv"),
        (["/run/x", "/var/run"], "would hide the volume on /run/x"),
        (["/srv", "/srv/evil/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["/new", "/new/evil/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["/new", "/new/root/x"], "/new/root in it is not a directory"),
        (["/" + "x" * 256], "File name too long"),
    ],
)  # fmt: skip
def test_targets_that_are_refused(
    image: Path, hidden: Path, requests: list[str], reason: str
) -> None:
    (hidden / "evil").symlink_to("/.oldroot/tmp")
    before = own_descriptors()
    with pytest.raises(RootfsError) as raised:
        check(image, *requests, hidden=hidden)
    assert reason in raised.value.reason
    assert raised.value.path == requests[-1].rpartition(":")[2]
    assert own_descriptors() == before


def test_another_name_for_what_libvirt_mounts(
    image: Path, hidden: Path
) -> None:
    # A stand-in for the case of letters, which ext4 can ignore.
    (image / "PROC").mkdir()
    bind(image / "proc", image / "PROC")
    (image / "alias").symlink_to("PROC/self")
    with pytest.raises(RootfsError, match="leads to /PROC/self, where"):
        check(image, "/alias", hidden=hidden)


@pytest.mark.needs("containers")
def test_libvirt_mounts_where_the_check_says(
    host: Host,
    busybox_rootfs: Path,
    hidden: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    rootfs.shift(busybox_rootfs, ONE)
    (busybox_rootfs / "run").mkdir()
    (busybox_rootfs / "run").chmod(0o777)
    (busybox_rootfs / "var").mkdir()
    (busybox_rootfs / "var/run").symlink_to("../run")
    requests = ["/new/deep/within", "/new/deep", "f:/new/deep/alice",
                "/var/run/new", "f:/run/file", "/dev/shm",
                "f:/dev/log"]  # fmt: skip
    (hidden / "within").mkdir()
    check(busybox_rootfs, *requests, hidden=hidden)
    with directory.opened(busybox_rootfs) as root:
        host.views.mount("one", "root", ONE, partial(mounts.bind, root))
    filesystems = [
        domain.Filesystem(host.views.path("one", "root"), "/"),
        *mount_all(host, requests, hidden),
    ]
    filesystems.sort(key=lambda each: each.target.rstrip("/").count("/"))
    uuid = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"
    made = domain.Domain(
        name="volumes",
        uuid=uuid,
        memory_mib=64,
        init=domain.Init("/bin/sleep", ["1000"]),
    )
    parts = domain.DomainParts(
        name="volumes",
        uuid=uuid,
        marker=domain.Marker(rootfs=str(busybox_rootfs), strategy="chown"),
        filesystems=tuple(filesystems),
        id_maps=ONE,
    )
    container = libvirt_connection.createXML(
        domain.apply(made.to_xml(), parts)
    )
    try:
        with Guests().init_process("volumes") as init:
            pid = init.pid
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        found = [line.split()[4:6] for line in lines]
        ours = [(point, options) for point, options in found
                if "idmapped" in options]  # fmt: skip
    finally:
        container.destroy()
    assert [point for point, _ in ours] == [
        *("/new/deep", "/run/file", "/dev/shm", "/dev/log"),
        *("/new/deep/within", "/new/deep/alice", "/run/new"),
    ]
    assert all("nosuid,nodev" in options for _, options in ours)
    assert owner(busybox_rootfs / "new/deep") == (BASE, BASE)


def mount_all(
    host: Host, requests: list[str], hidden: Path
) -> Iterator[domain.Filesystem]:
    """Mount the same volumes, and say so for a domain."""
    for number, request in enumerate(requests):
        kind, _, target = request.rpartition(":")
        source = hidden / "root" if kind == "f" else hidden
        name = f"volume{number}"
        with volumes.opened(Volume(str(source), target)) as opened:
            host.views.mount(
                "one",
                name,
                ONE,
                partial(opened.mount, ONE),
                is_directory=opened.is_directory,
            )
        yield domain.Filesystem(host.views.path("one", name), target)
