# SPDX-License-Identifier: Apache-2.0
"""Files that the host gives an instance: root filesystem and volumes."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxc_userns.commands import command
from lxc_userns.exceptions import ReplacedError, RootfsError, translated
from lxc_userns.instances import path_lookup
from lxc_userns.linux import file_identity
from lxc_userns.linux.safe_path import Trust
from lxc_userns.rootfs import exposure
from lxc_userns.rootfs.views import image_volumes
from lxc_userns.rootfs.views.source import check_image

if TYPE_CHECKING:
    from lxc_userns.instances.record import InstanceRecord
    from lxc_userns.linux.file_identity import FileIdentity
    from lxc_userns.rootfs.views.volumes import Source
    from lxc_userns.spec.volume import Volume


@dataclass(frozen=True, slots=True)
class Opened:
    """A root filesystem, found but not looked at.

    :param path: its path.
    :param fd: ``O_PATH`` descriptor of it.
    :param identity: which file it is; None if that does not matter.
    """

    path: str
    fd: int
    identity: FileIdentity | None


class GivenFiles:
    """Files of the host that its instances are given.

    No one but root can replace one, and each stays the one that was opened
    first.

    :param roots: as for :class:`safe_path.Trust`.
    """

    def __init__(self, roots: Collection[str]) -> None:
        self._roots = roots

    @property
    def trust(self) -> Trust:
        """Rules for the directories above what the host gives instances."""
        return Trust(self._roots)

    def opened_volume(
        self, volume: Volume, empty: exposure.Empty | None = None
    ) -> AbstractContextManager[Source]:
        """Open the source of a volume; see :func:`image_volumes.opened`."""
        return image_volumes.opened(volume, self._roots, empty)

    @contextmanager
    def opened_root(self, record: InstanceRecord) -> Iterator[Opened]:
        """Open its root filesystem, and nothing in it.

        :raises RootfsError: if others could replace it, or did: it is not
            what the record says.
        """
        path = record.rootfs
        with (
            path_lookup.opened(path, self.trust) as fd,
            translated(RootfsError, path),
        ):
            # What was unpacked is in a directory of ours alone.
            found = None if record.archive else file_identity.read(fd)
            _check_same(record, path, found)
            yield Opened(path, fd, found)

    @contextmanager
    def opened_volumes(
        self, record: InstanceRecord, empty: exposure.Empty
    ) -> Iterator[list[Source]]:
        """Open the sources of its volumes.

        :param empty: as for :func:`exposure.check_only_root_can_reach`.
        :raises RootfsError: as :meth:`opened_root`, or if one cannot be the
            source of a volume.
        """
        with ExitStack() as stack:
            sources = [
                stack.enter_context(self.opened_volume(each, empty))
                for each in record.volumes
            ]
            for source in sources:
                path = source.volume.source
                _check_same(
                    record, path, source.identity, proven=source.volume.owned
                )
            yield sources

    def check_image(self, record: InstanceRecord) -> None:
        """Check what its image is; see :func:`check_image`."""
        with self.opened_root(record) as root:
            check_image(root.fd, root.path)

    def check_volumes(self, record: InstanceRecord) -> None:
        """Check its volumes as mounting them does, but for their targets.

        :raises RootfsError: as :meth:`opened_volumes`.
        :raises ExposedTreeError: if users of the host could get at one.
        """
        with self.opened_volumes(record, {}) as sources:
            for source in sources:
                source.check_idmapped(record.id_maps)

    def check_only_root_can_reach(self, record: InstanceRecord) -> None:
        """Check that no user of the host can reach what is idmapped.

        :raises ExposedTreeError: if one can.
        """
        empty = dict(record.empty)
        if record.strategy.traits.needs_idmapped_mounts:
            with self.opened_root(record) as root:
                # An image is mounted nowhere else.
                if stat.S_ISDIR(os.fstat(root.fd).st_mode):
                    exposure.check_only_root_can_reach(
                        root.fd, root.path, empty
                    )
        if record.id_maps is None:  # Nothing is idmapped then.
            return
        with self.opened_volumes(record, empty) as sources:
            for source in sources:
                source.check_not_exposed()


def identities(
    root: Opened, sources: Sequence[Source]
) -> dict[str, FileIdentity]:
    """Return the identities of what the host gives an instance, by path."""
    found = {source.volume.source: source.identity for source in sources}
    found[root.path] = root.identity
    return {path: each for path, each in found.items() if each is not None}


def _check_same(
    record: InstanceRecord,
    path: str,
    found: FileIdentity | None,
    *,
    proven: bool = False,
) -> None:
    """Refuse what is not the file that was opened first.

    :param proven: whether to refuse also what cannot be told after a reboot.
    """
    known = record.identities.get(path)
    if known is None or found is None:
        return
    is_same = known.is_same(found)
    if is_same is False or (is_same is None and proven):
        start = ("container", "start", record.name, "--accept-replaced")
        raise ReplacedError(
            path,
            "is another file or directory than the one that the instance was "
            "given first; put that one back, or, if this one is meant, accept "
            f"it: {command(*start)}",
        )
