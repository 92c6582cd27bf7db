# SPDX-License-Identifier: Apache-2.0
"""Which filesystems are tried, and for how long they are waited for."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lxc_userns.exceptions import NotIdmappableError, RootfsError
from lxc_userns.linux import mounts
from lxc_userns.linux.mounts import Mount
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.views import idmapped, probe
from lxc_userns.rootfs.views.probe import Finding


def mount(
    point: str, fs_type: str = "ext4", device: str = "8:1", *options: str
) -> Mount:
    return Mount(hash(point), point, fs_type, frozenset(options), device)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[Mount]:
    """All mounts there are; each path is on the one of that path."""
    found: list[Mount] = []
    opened: dict[int, str] = {}

    def open_(path: str, flags: int, *_: object, **__: object) -> int:
        assert flags & os.O_PATH
        if path == "/gone":
            raise FileNotFoundError
        fd = 1_000_000 + len(opened)
        opened[fd] = path
        return fd

    @contextmanager
    def namespace(_: object) -> Iterator[int]:
        yield 42

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "dup", lambda fd: fd)
    monkeypatch.setattr(os, "close", lambda _: None)
    monkeypatch.setattr(mounts, "read_mounts", lambda: iter(found))
    monkeypatch.setattr(mounts, "mount_id", lambda fd: hash(opened[fd]))
    monkeypatch.setattr(idmapped, "user_namespace", namespace)
    monkeypatch.setattr(idmapped, "check_possible", lambda *_: None)
    return found


def test_each_filesystem_once(table: list[Mount]) -> None:
    table += [
        mount("/"),
        mount("/bind"),
        mount("/other", "xfs", "8:2"),
        mount("/tmp", "tmpfs", "0:5"),
        mount("/more", "tmpfs", "0:6"),
    ]
    points = [finding.point for finding in probe.find_idmappable()]
    assert points == ["/", "/other", "/tmp", "/more"]


@pytest.mark.parametrize(
    "kind",
    [
        *("autofs", "bpf", "cgroup", "cgroup2", "configfs", "debugfs"),
        *("devpts", "devtmpfs", "fusectl", "hugetlbfs", "mqueue", "nsfs"),
        *("proc", "pstore", "securityfs", "sysfs", "tracefs"),
    ],
)
def test_the_kernels_own_are_not_even_opened(
    kind: str, table: list[Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    table.append(mount("/x", kind, "0:9"))
    monkeypatch.delattr(os, "open")
    assert probe.find_idmappable() == []


def test_views_are_left_out(table: list[Mount]) -> None:
    table += [
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
    ]
    found = probe.find_idmappable()
    assert found == [Finding("/devices", "tmpfs", None)]


def test_what_is_hidden_is_tried_elsewhere(
    table: list[Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    table += [mount("/gone"), mount("/here"), mount("/there")]
    really = mounts.mount_id
    monkeypatch.setattr(
        mounts,
        "mount_id",
        lambda fd: 0 if really(fd) == hash("/here") else really(fd),
    )
    assert probe.find_idmappable() == [Finding("/there", "ext4", None)]
    del table[2]
    assert probe.find_idmappable() == []


@pytest.mark.parametrize("kind", [NotIdmappableError, RootfsError])
def test_the_reason(
    kind: type[RootfsError],
    table: list[Mount],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(fd: int, path: str, namespace: int) -> None:
        assert namespace == 42
        raise kind(path, "it cannot")

    monkeypatch.setattr(idmapped, "check_possible", refuse)
    table.append(mount("/a\nb"))
    (found,) = probe.find_idmappable()
    assert found == Finding("/a\\nb", "ext4", "it cannot")


def test_a_dead_filesystem_does_not_hold_up_the_rest(
    table: list[Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def wait(fd: int, path: str, namespace: int) -> None:
        if path.startswith("/dead"):
            assert answer.wait(60)

    monkeypatch.setattr(idmapped, "check_possible", wait)
    monkeypatch.setattr(probe, "PATIENCE", 0.2)
    table += [
        mount("/dead", "nfs4", "0:1"),
        mount("/"),
        mount("/dead2", "fuse.sshfs", "0:2"),
    ]
    found = probe.find_idmappable()
    answer.set()
    # What they call is the system's own again after this test.
    for thread in threading.enumerate():
        if isinstance(thread, probe._Trial):
            thread.join(60)
    assert found == [
        Finding("/dead", "nfs4", "does not answer within 0.2 seconds"),
        Finding("/", "ext4", None),
        Finding("/dead2", "fuse.sshfs", "does not answer within 0.2 seconds"),
    ]
