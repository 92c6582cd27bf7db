# SPDX-License-Identifier: Apache-2.0
"""Control groups of a container that is to start, or has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lxc_userns.idmap import IdMaps
from lxc_userns.libvirtd.status import RunningDomains
from lxc_userns.resources import partition, systemd_hierarchy


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlGroups:
    """Steps before a start and after an end, each of which can be replaced.

    :param check_start: as :func:`systemd_hierarchy.check_start`.
    :param make: as :func:`partition.make`.
    :param remove: as :func:`partition.remove`.
    """

    check_start: Callable[[str, IdMaps | None, RunningDomains], object] = (
        systemd_hierarchy.check_start
    )
    make: Callable[[str, int], object] = partition.make
    remove: Callable[[str], object] = partition.remove
