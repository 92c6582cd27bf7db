# SPDX-License-Identifier: Apache-2.0
"""Where the disk of a container of Nova's is."""

from __future__ import annotations

import os
from typing import Any

import nova.conf
from nova import block_device
from nova.virt import driver
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import utils as libvirt_utils

from lxc_userns.exceptions import NeedsError

CONF = nova.conf.CONF
_find_disk = libvirt_utils.find_disk


def backs_loop_device(device: str, path: str) -> bool:
    """Whether a loop device has this file behind it.

    :param device: its path.
    """
    name = os.path.basename(device)
    try:
        with open(f"/sys/block/{name}/loop/backing_file", "rb") as stream:
            found = os.fsdecode(stream.read().removesuffix(b"\n"))
            return found == os.path.realpath(path)
    except OSError:
        return False


def patch_find_disk() -> None:
    """Make Nova find disks of domains whose root filesystem is a view.

    Its own function, which snapshots use, looks for them beside a directory
    ``rootfs``.
    """
    libvirt_utils.find_disk = find_disk


def find_disk(guest: Any) -> tuple[str, str | None]:
    """The path of a domain's root disk, and its format if that is known.

    :param guest: Nova's ``Guest``.
    """
    if _is_on_view(guest.get_config()):
        # Without a format a snapshot fails; the kernel mounts no other.
        return _disk_path(guest.uuid), "raw"
    found: tuple[str, str | None] = _find_disk(guest)
    return found


def describe_root(
    config: Any, block_device_info: Any
) -> list[dict[str, object]]:
    """Describe a domain's root disk, as Nova describes those of machines.

    What it does not describe is not taken along to another host, nor to the
    directory of an instance that is resized.

    :param config: Nova's ``LibvirtConfigGuest``.
    :returns: nothing in it if that is not a file.
    """
    path = _disk_path(config.uuid)
    root = block_device.get_root_bdm(
        driver.block_device_info_get_mapping(block_device_info)
    )
    if root or not _is_on_view(config) or not os.path.isfile(path):
        return []
    found = os.stat(path)
    used = found.st_blocks * 512
    return [
        {
            "type": "raw",
            "path": path,
            "virt_disk_size": found.st_size,
            "backing_file": "",
            "disk_size": used,
            "over_committed_disk_size": found.st_size - used,
        }
    ]


def check_root_alone(flavor: Any, block_device_info: Any) -> None:
    """Check that an instance is to have no disk besides its root's.

    :param block_device_info: as Nova's driver gets it, or None.
    :raises NeedsError: if its flavor or it itself asks for one.
    """
    info = block_device_info
    swap = driver.block_device_info_get_swap(info)
    for name, is_asked_for in (
        (
            "ephemeral disk",
            flavor.ephemeral_gb
            or driver.block_device_info_get_ephemerals(info),
        ),
        ("swap", flavor.swap or driver.swap_is_usable(swap)),
    ):
        if is_asked_for:
            raise NeedsError(
                "flavor",
                name,
                "a container sees no disk but that of its root; choose a "
                "flavor without, with a larger root disk",
            )


def has_same_others(old: Any, new: Any) -> bool:
    """Return whether two flavors have the same disks besides the root's."""
    return (old.ephemeral_gb, old.swap) == (new.ephemeral_gb, new.swap)


def _disk_path(uuid: str) -> str:
    return f"{CONF.instances_path}/{uuid}/disk"


def _is_on_view(config: Any) -> bool:
    run_path = os.path.join(CONF.lxc_userns.run_path, "")
    return any(
        isinstance(device, vconfig.LibvirtConfigGuestFilesys)
        and (device.source_dir or "").startswith(run_path)
        for device in config.devices
    )
