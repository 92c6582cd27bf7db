# SPDX-License-Identifier: Apache-2.0
"""Network interfaces of containers."""

from __future__ import annotations

from typing import Any

from nova.virt.libvirt import vif as libvirt_vif


class VIFDriver(libvirt_vif.LibvirtGenericVIFDriver):  # type: ignore[misc]
    """Nova's, for devices that libvirt makes."""

    def plug_tap(self, instance: Any, vif: Any) -> None:
        """Leave the device of a port to libvirt.

        It makes a pair of devices, of which the host's has that name, and
        does not start a container where a device has it already.
        """
