# SPDX-License-Identifier: Apache-2.0
"""Filesystems that are tried, and how long they are waited for."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_userns.exceptions import NotIdmappableError, RootfsError
from lxc_userns.idmap import IdMaps
from lxc_userns.linux.fd import owned
from lxc_userns.linux.mounts import Mount
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.views import probe
from lxc_userns.rootfs.views.probe import Finding


def mount(
    point: str, fs_type: str = "ext4", device: str = "8:1", *options: str
) -> Mount:
    return Mount(hash(point), point, fs_type, frozenset(options), device)


class Host:
    """A host with some mounts, all of which can be idmapped."""

    def __init__(self, *mounted: Mount) -> None:
        self.mounted = [*mounted]
        self.tried: list[str] = []
        self._namespace = os.open(__file__, os.O_RDONLY | os.O_CLOEXEC)

    @contextmanager
    def make_namespace(self, _maps: IdMaps) -> Iterator[int]:
        with owned(self._namespace):
            yield self._namespace

    def can_idmap(self, mount: Mount, namespace: int) -> bool:
        """Try it by the namespace that was made."""
        assert os.path.samestat(os.fstat(namespace), os.stat(__file__))
        self.tried.append(mount.point)
        return True

    def find(self, patience: float = 60.0) -> list[Finding]:
        return probe.find_idmappable(
            read_mounts=lambda: self.mounted,
            can_idmap=self.can_idmap,
            make_namespace=self.make_namespace,
            patience=patience,
        )


def test_each_filesystem_once() -> None:
    host = Host(
        mount("/"),
        mount("/bind"),
        mount("/other", "xfs", "8:2"),
        mount("/tmp", "tmpfs", "0:5"),
        mount("/more", "tmpfs", "0:6"),
    )
    points = [finding.point for finding in host.find()]
    assert sorted(host.tried) == sorted(points)
    assert points == ["/", "/other", "/tmp", "/more"]


@pytest.mark.parametrize(
    "kind",
    [
        *("autofs", "bpf", "cgroup", "cgroup2", "configfs", "debugfs"),
        *("devpts", "devtmpfs", "fusectl", "hugetlbfs", "mqueue", "nsfs"),
        *("proc", "pstore", "securityfs", "sysfs", "tracefs"),
    ],
)
def test_the_kernels_own_are_not_even_opened(kind: str) -> None:
    host = Host(mount("/x", kind, "0:9"))
    assert (host.find(), host.tried) == ([], [])


def test_views_are_left_out() -> None:
    host = Host(
        mount("/run/view", "ext4", "8:9", "rw", "idmapped"),
        Mount(
            7,
            "/run/over",
            "overlay",
            device="0:7",
            source=refusals.OVERLAY_SOURCE,
        ),
        mount("/dev/shm", "tmpfs", "0:8"),
        mount("/proc/x", "tmpfs", "0:9"),
        mount("/sys/fs/x", "tmpfs", "0:10"),
        mount("/devices", "tmpfs", "0:11"),
    )
    assert host.find() == [Finding("/devices", "tmpfs", None)]


def test_what_is_hidden_is_tried_elsewhere() -> None:
    class Hidden(Host):
        def can_idmap(self, mount: Mount, namespace: int) -> bool:
            if mount.point == "/gone":
                raise FileNotFoundError(mount.point)
            return mount.point != "/here"

    here = [mount("/gone"), mount("/here")]
    found = Hidden(*here, mount("/there")).find()
    assert found == [Finding("/there", "ext4", None)]
    assert Hidden(*here).find() == []


def test_what_another_mount_hides(tmp_path: Path) -> None:
    """It is not even opened: who would is not let to a socket."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert not probe.can_idmap(Mount(0, path, "ext4"), -1)
    with pytest.raises(FileNotFoundError):
        probe.can_idmap(Mount(0, f"{tmp_path}/absent", "ext4"), -1)


@pytest.mark.parametrize("kind", [NotIdmappableError, RootfsError])
def test_the_reason(kind: type[RootfsError]) -> None:
    class Refusing(Host):
        def can_idmap(self, mount: Mount, namespace: int) -> bool:
            raise kind(mount.point, "it cannot")

    (found,) = Refusing(mount("/a\nb")).find()
    assert found == Finding("/a\\nb", "ext4", "it cannot")


def test_a_dead_filesystem_does_not_hold_up_the_rest() -> None:
    answer = threading.Event()

    class Dead(Host):
        def can_idmap(self, mount: Mount, namespace: int) -> bool:
            return not mount.point.startswith("/dead") or answer.wait(60)

    host = Dead(
        mount("/dead", "nfs4", "0:1"),
        mount("/"),
        mount("/dead2", "fuse.sshfs", "0:2"),
    )
    found = host.find(patience=0.2)
    answer.set()
    assert found == [
        Finding("/dead", "nfs4", "does not answer within 0.2 seconds"),
        Finding("/", "ext4", None),
        Finding("/dead2", "fuse.sshfs", "does not answer within 0.2 seconds"),
    ]
