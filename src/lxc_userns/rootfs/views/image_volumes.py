# SPDX-License-Identifier: Apache-2.0
"""Volumes of disk images: the filesystem in a file, for one container.

It is mounted nowhere but in the container, so that no one else can reach what
is made there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.linux import directory, mount_api
from lxc_userns.linux.fd import owned
from lxc_userns.rootfs import refusals
from lxc_userns.rootfs.views import source, volumes

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.rootfs import exposure
    from lxc_userns.rootfs.views.strategies import ShiftOptions
    from lxc_userns.spec.volume import Volume


class ImageSource(volumes.Source):
    """The source of a volume, a disk image that is open and not mounted."""

    __slots__ = ()

    @property
    def is_directory(self) -> bool:
        """Return that what the container sees is mounted on a directory."""
        return True

    def mount(
        self,
        id_maps: IdMaps | None,
        parent: int,
        name: str,
        options: ShiftOptions | None = None,
    ) -> None:
        """Mount its filesystem for a container.

        :param id_maps: as for :meth:`volumes.Source.mount`, and so are parent
            and name.
        :param options: unused: owners on disk stay as they are.
        :raises ImageError: if it is not an image of one filesystem.
        :raises NotIdmappableError: if that cannot be idmapped.
        :raises RootfsError: if it is in use, or its root directory belongs to
            no guest ID.
        """
        with (
            translated(RootfsError, self._shown),
            source.open_source(
                self.volume.source,
                readonly=self.volume.readonly,
                fd=self.fd,
                kind="image",
            ) as tree,
            self._filesystem(tree, id_maps) as view,
            directory.opened_in(parent, name) as target,
        ):
            mount_api.set_attributes(view, self._attributes)
            mount_api.attach(view, target)

    def _filesystem(
        self, tree: source.RootfsSource, id_maps: IdMaps | None
    ) -> AbstractContextManager[int]:
        if tree.image is None:
            raise RootfsError(
                self._shown, "is no disk image; leave out the option image"
            )
        if id_maps is None or self.volume.owners == "none":
            return owned(tree.image.mount())
        refusals.check_guest_root(tree.fd, self._shown, id_maps)
        return tree.idmapped(id_maps)

    def check_idmapped(self, id_maps: IdMaps | None) -> None:
        """Refuse what is no image of one filesystem, and mount nothing.

        :raises ImageError: if it is none.
        """
        source.check_image(self.fd, self._shown)

    def check_not_exposed(self) -> None:
        """Do nothing: users of the host can reach no file in an image."""


@contextmanager
def opened(
    volume: Volume,
    roots: Collection[str] = (),
    empty: exposure.Empty | None = None,
) -> Iterator[volumes.Source]:
    """Open the source of a volume, an image or not.

    :param roots: as for :func:`volumes.opened`, and so is empty.
    :raises RootfsError: as :func:`volumes.opened`.
    """
    with volumes.opened(volume, roots, empty) as found:
        if volume.image:
            found = ImageSource(volume, found.fd, found.origin, empty)
        yield found
