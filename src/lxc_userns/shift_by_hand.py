# SPDX-License-Identifier: Apache-2.0
"""Trees that somebody shifts by hand: kept from being taken in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.instances.conflicts import PathUse
from lxc_userns.leases import shifted_trees
from lxc_userns.spec.strategy import Strategy

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.services import Services


@contextmanager
def reserved(
    services: Services, path: str, id_maps: IdMaps | None
) -> Iterator[int]:
    """Keep a root filesystem from being taken in use, to shift it.

    :param path: the root filesystem.
    :param id_maps: what it is about to be shifted for.
    :returns: ``O_PATH`` descriptor of it.
    :raises RootfsError: if an instance uses it, or a tree around or
        within it, with other ID maps.
    """
    rootfs = services.paths.resolve(path)
    use = PathUse(path=rootfs, strategy=Strategy.CHOWN, id_maps=id_maps)
    with (
        services.paths.opened(rootfs) as fd,
        translated(RootfsError, path),
        services.store.lock_trees([fd]),
    ):
        services.instances.check_unused([use], besides=None)
        if id_maps is not None:
            shifted_trees.record_shift(services.leases, rootfs, id_maps)
        yield fd
