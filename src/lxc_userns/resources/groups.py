# SPDX-License-Identifier: Apache-2.0
"""Control groups of a container, by libvirt's process in charge of it.

That one is in the container's own groups and out of its reach; the container
may have moved its own processes to groups below.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from lxc_userns.linux import cgroups
from lxc_userns.linux.cgroups import Group
from lxc_userns.linux.mounts import Mount

#: The group that libvirt makes below the one that systemd makes for it
#: (virCgroupNewNested).
_NESTED = "libvirt"
_SCOPE = ".scope"
_PREFIX, _SUFFIX = "lxc-userns-", ".partition"


@dataclass(frozen=True, slots=True)
class Place:
    """A control group in which limits of one container hold.

    :param path: its directory; it is root's.
    :param unit: what systemd calls it, None if it is not systemd's.
    """

    path: str
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class ContainerGroups:
    """The groups of a container in all hierarchies.

    :param own: libvirt's own for it, by the controllers of each hierarchy;
        the empty text is for version 2.
    """

    own: dict[str, Group]

    @classmethod
    def find(
        cls, of: dict[str, str], mounts: Iterable[Mount]
    ) -> ContainerGroups:
        """Find those of a process.

        :param of: its control groups, as :attr:`Process.cgroups
            <lxc_userns.linux.process.Process.cgroups>`.
        :param mounts: what is mounted on the host.
        """
        found = cgroups.groups(of, [*mounts])
        # Own ones come first, then those above.
        firsts = (
            next(each)
            for _, each in groupby(found, lambda group: group.hierarchy)
        )
        return cls(
            {
                "" if each.is_unified else each.hierarchy: each
                for each in firsts
            }
        )

    @property
    def is_unified(self) -> bool:
        """Return whether version 2 has the controllers that libvirt uses."""
        return self.directory("memory") is None and "" in self.own

    def directory(self, controller: str) -> str | None:
        """Return its own group of version 1, None if there is none."""
        for controllers, group in self.own.items():
            if controller in controllers.split(","):
                return group.path
        return None

    def outer(self, controller: str) -> Place | None:
        """Return the outermost group of version 1 that it has alone."""
        path = self.directory(controller)
        return None if path is None else _above(path) or Place(path)

    def above(self, name: str) -> Place | None:
        """Return the group of version 2 above its own that it has alone.

        :param name: the container's name.
        :returns: None if the group above is that of others too.
        """
        path = self.own[""].path
        parent = posixpath.dirname(path)
        if posixpath.basename(parent) == partition_name(name):
            return Place(parent)
        return _above(path)


def partition_name(name: str) -> str:
    """Name the group that is made for a container where systemd makes none.

    :param name: the container's name.
    """
    return f"{_PREFIX}{name}{_SUFFIX}"


def _above(path: str) -> Place | None:
    parent, name = posixpath.split(path)
    unit = posixpath.basename(parent)
    if name == _NESTED and unit.endswith(_SCOPE):
        return Place(parent, unit)
    return None
