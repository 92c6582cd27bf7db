# SPDX-License-Identifier: Apache-2.0
"""Probes of this host's filesystems, which leave no trace."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from lxc_userns.exceptions import RootfsError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.linux import directory, mount_api, mounts
from lxc_userns.linux.fd import open_file, owned
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.shifting.acl import ACCESS
from lxc_userns.rootfs.views import idmapped, overlay
from lxc_userns.text import printable

#: How long to wait for filesystems that do not answer, in seconds.
PATIENCE = 5.0

_NO_PLACE = mounts.KERNEL_STATE | {"devtmpfs", "hugetlbfs"}
_NO_PLACES = ("/dev/", "/proc/", "/sys/")
_IDS = IdMap.parse("0:1000000:65536")
_ID_MAPS = IdMaps(_IDS, _IDS)
_FILE = "file"
_NO_ID = 2**32 - 1
#: Owner rw, user 1 r, group none, mask r, others none: acl(5).
_ACL = struct.pack(
    "<I" + 5 * "HHI",
    *(2, 0x01, 6, _NO_ID, 0x02, 4, 1, 0x04, 0, _NO_ID),
    *(0x10, 4, _NO_ID, 0x20, 0, _NO_ID),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding about idmapped mounts of a filesystem.

    :param point: where it is mounted.
    :param fs_type: its type.
    :param reason: why it cannot and what to do, None if it can.
    """

    point: str
    fs_type: str
    reason: str | None


def can_idmap(mount: mounts.Mount, namespace: int) -> bool:
    """Try whether a mount can be idmapped, and change nothing.

    :param namespace: descriptor of a user namespace with ID maps.
    :returns: False if another mount hides it.
    :raises RootfsError: if it cannot, with the reason.
    :raises OSError: if there is nothing at its mount point.
    """
    flags = os.O_PATH | os.O_NOFOLLOW
    with open_file(mount.point, flags) as fd:
        if mounts.mount_id(fd) != mount.number:
            return False
        idmapped.check_possible(fd, mount.point, namespace)
        return True


def find_idmappable(
    *,
    read_mounts: Callable[[], Iterable[mounts.Mount]] = mounts.read_mounts,
    can_idmap: Callable[[mounts.Mount, int], bool] = can_idmap,
    make_namespace: Callable[
        [IdMaps], AbstractContextManager[int]
    ] = idmapped.user_namespace,
    patience: float = PATIENCE,
) -> list[Finding]:
    """Try on every mounted filesystem whether it can be idmapped.

    Left out are those that no root filesystem can be on, and views of ours.

    :param read_mounts: lists all mounts.
    :param can_idmap: tries one, as :func:`can_idmap`.
    :param make_namespace: makes a user namespace to try by.
    :param patience: seconds to wait for filesystems that do not answer.
    :raises OSError: if no user namespace can be made.
    """
    with make_namespace(_ID_MAPS) as namespace:
        trials = [
            _Trial(candidates, namespace, can_idmap, patience)
            for candidates in _filesystems(read_mounts())
        ]
        for trial in trials:
            trial.start()
        end = time.monotonic() + patience
        for trial in trials:
            trial.join(max(0.0, end - time.monotonic()))
    return [trial.finding for trial in trials if trial.finding]


def check_overlay(path: str) -> bool:
    """Try to make an overlay with all its layers in a directory.

    :returns: whether files keep their ACLs when they are copied to the upper
        layer. Kernels up to at least Linux 6.18 copy the form in which XFS
        stores them too, with owners that are not shifted, if both layers are
        on XFS.
    :raises RootfsError: if none can be made, with the reason.
    :raises OSError: if nothing can be made there.
    """
    with TemporaryDirectory(dir=path) as base:
        places = [f"{base}/image", f"{base}/state"]
        for place in places:
            os.mkdir(place, 0o700)
        _make_file_with_acl(f"{places[0]}/{_FILE}")
        with (
            directory.opened(places[0]) as image,
            directory.opened(places[1]) as state,
            idmapped.idmapped_mount(
                image, path, _ID_MAPS, mount_api.MOUNT_ATTR_NODEV
            ) as lower,
            overlay.overlay_mount(lower, path, state, _ID_MAPS) as root,
        ):
            return _keeps_acl(f"/proc/self/fd/{root}/{_FILE}")


def _make_file_with_acl(path: str) -> None:
    with open_file(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY):
        pass
    with suppress(OSError):  # A filesystem without ACLs has none to lose.
        os.setxattr(path, ACCESS, _ACL)


def _keeps_acl(path: str) -> bool:
    if ACCESS not in os.listxattr(path):
        return True
    before = os.getxattr(path, ACCESS)
    os.utime(path)  # Any change copies it.
    return os.getxattr(path, ACCESS) == before


class _Trial(threading.Thread):
    """One filesystem, in a thread that may wait for it forever.

    :param candidates: its mounts.
    :param namespace: descriptor of a user namespace with ID maps.
    :param can_idmap: tries a mount.
    :param patience: seconds that it has.
    """

    def __init__(
        self,
        candidates: list[mounts.Mount],
        namespace: int,
        can_idmap: Callable[[mounts.Mount, int], bool],
        patience: float,
    ) -> None:
        super().__init__(daemon=True)
        self._candidates = candidates
        self._can_idmap = can_idmap
        self._namespace = os.dup(namespace)
        self.finding: Finding | None = _find(
            candidates[0], f"does not answer within {patience:g} seconds"
        )

    def run(self) -> None:
        """Try it on the first mount that nothing hides."""
        with owned(self._namespace):
            self.finding = next(self._try_all(), None)

    def _try_all(self) -> Iterator[Finding]:
        for mount in self._candidates:
            try:
                if self._can_idmap(mount, self._namespace):
                    yield _find(mount, None)
            except RootfsError as err:
                yield _find(mount, err.reason)
            except OSError:
                pass  # Hidden by another mount.


def _find(mount: mounts.Mount, reason: str | None) -> Finding:
    return Finding(printable(mount.point), mount.fs_type, reason)


def _filesystems(found: Iterable[mounts.Mount]) -> list[list[mounts.Mount]]:
    """Return the mounts of each filesystem that counts."""
    grouped: dict[tuple[str, str], list[mounts.Mount]] = {}
    for mount in found:
        is_place = mount.fs_type not in _NO_PLACE and not (
            mount.point.startswith(_NO_PLACES)
        )
        if is_place and not refusals.is_view(mount):
            key = (mount.device, mount.fs_type)
            grouped.setdefault(key, []).append(mount)
    return list(grouped.values())
