# SPDX-License-Identifier: Apache-2.0
"""Expectation of a container: what it was promised to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps
    from lxc_userns.spec.requirements import Device, Mode
    from lxc_userns.spec.strategy import MountKind


@dataclass(frozen=True, slots=True)
class View:
    """A filesystem of a container.

    :param target: where it has it, an absolute path there.
    :param source: where it is on the host, an absolute path without links.
    :param kind: how owners are shifted in it: ``idmapped`` by the mount,
        ``overlay`` below it, ``plain`` not by the kernel; None: not told,
        and it need not be a mount point on the host.
    :param flags: what the mount has to forbid, of ``ro``, ``nosuid`` and
        ``nodev``.
    """

    target: str
    source: str
    kind: MountKind | None = None
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Confinement:
    """Confinement of a container by a security module of the kernel.

    :param model: the module, ``apparmor`` or ``selinux``.
    :param label: label of its processes, by its running domain; None if
        that has none of this model.
    """

    model: str
    label: str | None


@dataclass(frozen=True, slots=True)
class Expectation:
    """Expectation of a container: what it was promised to be.

    :param name: name of its domain.
    :param id_maps: its ID maps; None: it is in the host's user namespace.
    :param shared: namespaces of the host that it may be in, of ``network``,
        ``ipc`` and ``uts``.
    :param capabilities: what it may have at most, by libvirt's names.
    :param devices: devices of the host that it may use.
    :param views: its filesystems.
    :param confinement: by which security module it is confined; None: that
        was not promised.
    """

    name: str
    id_maps: IdMaps | None
    shared: frozenset[str]
    capabilities: frozenset[str]
    devices: tuple[Device, ...]
    views: tuple[View, ...]
    confinement: Confinement | None = None

    @property
    def mode(self) -> Mode:
        """``private`` with ID maps, ``host`` without."""
        return "host" if self.id_maps is None else "private"
