# SPDX-License-Identifier: Apache-2.0
"""Guest configuration of Nova, with what a domain has to have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nova.virt.libvirt import config as vconfig

from lxc_userns.idmap import IdMaps
from lxc_userns.instances.prepared import PreparedInstance


class _Capabilities(vconfig.LibvirtConfigGuestFeature):  # type: ignore[misc]
    """``<capabilities>`` that drops some."""

    def __init__(self, dropped: Iterable[str]) -> None:
        super().__init__("capabilities")
        self._dropped = sorted(dropped)

    def format_dom(self) -> Any:
        """The element."""
        element = super().format_dom()
        element.set("policy", "default")
        for name in self._dropped:
            element.append(self._new_node(name, state="off"))
        return element


class _Resource(vconfig.LibvirtConfigObject):  # type: ignore[misc]
    """``<resource>`` with a ``<partition>``, which Nova has nothing for."""

    def __init__(self, partition: str) -> None:
        super().__init__(root_name="resource")
        self._partition = partition

    def format_dom(self) -> Any:
        """The element."""
        element = super().format_dom()
        element.append(self._text_node("partition", self._partition))
        return element


def apply(guest: Any, allocated: PreparedInstance) -> None:
    """Make the configuration of a guest what was allocated for it.

    :param guest: a ``LibvirtConfigGuest``.
    :param allocated: what the instance was promised.
    """
    guest.idmaps = [*_entries(allocated.id_maps)]
    for device in guest.devices:
        if isinstance(device, vconfig.LibvirtConfigGuestFilesys):
            device.source_dir = allocated.root
    if allocated.needs_private_network and not _has_interface(guest):
        guest.features.append(vconfig.LibvirtConfigGuestFeature("privnet"))
    if allocated.dropped_capabilities:
        guest.features.append(_Capabilities(allocated.dropped_capabilities))
    if allocated.partition is not None:
        _add(guest, _Resource(allocated.partition))


def _add(guest: Any, resource: _Resource) -> None:
    """Add an element for which a guest of Nova's has no place."""
    format_dom = guest.format_dom

    def format_with_resource() -> Any:
        root = format_dom()
        root.append(resource.format_dom())
        return root

    guest.format_dom = format_with_resource


def _has_interface(guest: Any) -> bool:
    return any(
        isinstance(device, vconfig.LibvirtConfigGuestInterface)
        for device in guest.devices
    )


def _entries(id_maps: IdMaps | None) -> Iterator[Any]:
    if id_maps is None:
        return
    for kind, id_map in (
        (vconfig.LibvirtConfigGuestUIDMap, id_maps.uid),
        (vconfig.LibvirtConfigGuestGIDMap, id_maps.gid),
    ):
        # libvirt makes the first entry's host ID the owner of devices.
        for each in sorted(id_map):
            entry = kind()
            entry.start, entry.target = each.guest, each.host
            entry.count = each.count
            yield entry
