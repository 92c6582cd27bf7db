# SPDX-License-Identifier: Apache-2.0
"""Where the disk of a container of Nova's is."""

from __future__ import annotations

import os
from typing import Any

import nova.conf
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import utils as libvirt_utils

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
    run_path = os.path.join(CONF.lxc_userns.run_path, "")
    for device in guest.get_config().devices:
        is_tree = isinstance(device, vconfig.LibvirtConfigGuestFilesys)
        if is_tree and (device.source_dir or "").startswith(run_path):
            # Without a format a snapshot fails; the kernel mounts no other.
            return f"{CONF.instances_path}/{guest.uuid}/disk", "raw"
    found: tuple[str, str | None] = _find_disk(guest)
    return found
