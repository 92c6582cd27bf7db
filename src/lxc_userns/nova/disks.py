# SPDX-License-Identifier: Apache-2.0
"""Disks of a container of Nova's."""

from __future__ import annotations

import os
from typing import Any

import nova.conf
from nova import block_device, exception
from nova.virt import driver
from nova.virt.image import model as imgmodel
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import utils as libvirt_utils

from lxc_userns.exceptions import NeedsError
from lxc_userns.nova import ephemeral

CONF = nova.conf.CONF
_find_disk = libvirt_utils.find_disk


def backs_loop_device(device: str, path: str) -> bool:
    """Return whether a loop device has this file behind it.

    :param device: its path.
    """
    name = os.path.basename(device)
    try:
        with open(f"/sys/block/{name}/loop/backing_file", "rb") as stream:
            found = os.fsdecode(stream.read().removesuffix(b"\n"))
            return found == os.path.realpath(path)
    except OSError:
        return False


def path_of(driver: Any, instance: Any) -> str:
    """Return the path of an instance's root disk.

    :param driver: Nova's.
    :raises nova.exception.NovaException: if it is on no disk of the host.
    """
    disk = driver.image_backend.by_name(instance, "disk")
    model = disk.get_model(driver._conn)
    if isinstance(model, imgmodel.LocalFileImage | imgmodel.LocalBlockImage):
        return str(model.path)
    raise exception.NovaException(
        f"{instance.name}: its disk is neither a file nor a block device; "
        "set [libvirt] images_type = raw"
    )


def patch_find_disk() -> None:
    """Make Nova find disks of domains whose root filesystem is a view.

    Its own function, which snapshots use, looks for them beside a directory
    ``rootfs``.
    """
    libvirt_utils.find_disk = find_disk


def find_disk(guest: Any) -> tuple[str, str | None]:
    """Return the path of a domain's root disk, and its format if known.

    :param guest: Nova's ``Guest``.
    """
    if is_on_view(guest.get_config()):
        # Without a format a snapshot fails; the kernel mounts no other.
        return _disk_path(guest.uuid), "raw"
    found: tuple[str, str | None] = _find_disk(guest)
    return found


def is_on_view(config: Any) -> bool:
    """Return whether a domain's root filesystem is a view of ours.

    :param config: Nova's ``LibvirtConfigGuest``.
    """
    run_path = os.path.join(CONF.lxc_userns.run_path, "")
    return any(
        isinstance(device, vconfig.LibvirtConfigGuestFilesys)
        and (device.source_dir or "").startswith(run_path)
        for device in config.devices
    )


def describe(config: Any, block_device_info: Any) -> list[dict[str, object]]:
    """Describe the disks of a domain on a view, as Nova those of machines.

    They are no devices of the domain, nor has a volume a device's name, which
    Nova's own description wants of each. What is not described is not taken
    along to another host, nor to the directory of an instance that is resized.

    :param config: Nova's ``LibvirtConfigGuest``.
    :returns: those that are files.
    """
    path = _disk_path(config.uuid)
    root = block_device.get_root_bdm(
        driver.block_device_info_get_mapping(block_device_info)
    )
    paths = [] if root or not os.path.isfile(path) else [path]
    paths += ephemeral.paths(os.path.dirname(path))
    return [*map(_describe, paths)]


def _describe(path: str) -> dict[str, object]:
    found = os.stat(path)
    used = found.st_blocks * 512
    return {
        "type": "raw",
        "path": path,
        "virt_disk_size": found.st_size,
        "backing_file": "",
        "disk_size": used,
        "over_committed_disk_size": found.st_size - used,
    }


def check(flavor: Any, block_device_info: Any) -> None:
    """Check that a container can have its disks besides the root's.

    :param block_device_info: as Nova's driver gets it, or None.
    :raises NeedsError: if its flavor or it itself asks for swap, or for a
        filesystem that containers are not shown.
    """
    swap = driver.block_device_info_get_swap(block_device_info)
    if flavor.swap or driver.swap_is_usable(swap):
        raise NeedsError(
            "flavor",
            "swap",
            "a container has no swap of its own; choose a flavor without, "
            "with more memory",
        )
    ephemeral.check(block_device_info)


def check_same(old: Any, new: Any) -> None:
    """Check that an instance has its disks with another flavor as well.

    :param old: its flavor.
    :param new: the one that it is to get.
    :raises NeedsError: if that has others besides the root's.
    """
    ephemeral.check_same(old, new)
    if old.swap != new.swap:
        check(new, None)


def _disk_path(uuid: str) -> str:
    return f"{CONF.instances_path}/{uuid}/disk"
