# SPDX-License-Identifier: Apache-2.0
"""Guest configuration of Nova, with what a domain has to have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nova.virt.libvirt import config as vconfig


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


def apply(guest: Any, reserved: dict[str, Any]) -> None:
    """Make the configuration of a guest what was reserved for it.

    :param guest: a ``LibvirtConfigGuest``.
    :param reserved: as :func:`lxc_userns.privileged.reserve` gives.
    """
    guest.idmaps = [
        _entry(kind, *numbers)
        for kind, name in (
            (vconfig.LibvirtConfigGuestUIDMap, "uid_maps"),
            (vconfig.LibvirtConfigGuestGIDMap, "gid_maps"),
        )
        for numbers in reserved[name]
    ]
    for device in guest.devices:
        if isinstance(device, vconfig.LibvirtConfigGuestFilesys):
            device.source_dir = reserved["root"]
    if reserved["needs_private_network"] and not _has_interface(guest):
        guest.features.append(vconfig.LibvirtConfigGuestFeature("privnet"))
    if reserved["dropped_capabilities"]:
        guest.features.append(_Capabilities(reserved["dropped_capabilities"]))
    if reserved["partition"] is not None:
        _add(guest, _Resource(reserved["partition"]))


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


def _entry(kind: Any, start: int, target: int, count: int) -> Any:
    entry = kind()
    entry.start, entry.target, entry.count = start, target, count
    return entry
