# SPDX-License-Identifier: Apache-2.0
"""Ephemeral disks: in a container as directories of its own.

Nova makes them, with a filesystem. That is mounted nowhere but in the
container, which sees guest IDs on it, as on its root.
"""

from __future__ import annotations

import glob
import os
from typing import Any, Final

import nova.conf
from nova.virt import driver
from nova.virt.libvirt import driver as libvirt_driver
from nova.virt.libvirt import utils as libvirt_utils

from lxc_userns.exceptions import NeedsError
from lxc_userns.spec.volume import Volume

CONF = nova.conf.CONF

#: Where the first is in a container; others have a number, from 1.
TARGET: Final = "/mnt"
#: What Nova makes and a container can be shown; the first where Nova's own
#: choice, which may be vfat, is another.
_FORMATS: Final = ("ext4", "ext3", "ext2", "xfs")
#: That of a flavor, where Nova has not numbered it as those asked for.
_DEFAULT: Final = "disk.local"
_NUMBERED: Final = "disk.eph"


def create(*args: Any, specified_fs: str | None = None, **kwargs: Any) -> None:
    """Make a disk as Nova does, with a filesystem that a container can see.

    :param args: as Nova's driver has them, and so are kwargs.
    :param specified_fs: the one that is asked for, which :func:`check` has
        passed.
    """
    configured = CONF.default_ephemeral_format
    default = configured if configured in _FORMATS else _FORMATS[0]
    libvirt_driver.LibvirtDriver._create_ephemeral(
        *args, specified_fs=specified_fs or default, **kwargs
    )


def check(block_device_info: Any) -> None:
    """Check that a container can be shown its disks.

    :param block_device_info: as Nova's driver gets it, or None.
    :raises NeedsError: if one is to have another filesystem.
    """
    for each in driver.block_device_info_get_ephemerals(block_device_info):
        asked = each.get("guest_format")
        if asked and asked not in _FORMATS:
            raise NeedsError(
                "guest_format", asked, f"expected {', '.join(_FORMATS)}"
            )


def check_same(old: Any, new: Any) -> None:
    """Check that an instance keeps its disks with another flavor.

    :raises NeedsError: if the flavor has other ones.
    """
    if old.ephemeral_gb != new.ephemeral_gb:
        raise NeedsError(
            "flavor",
            "ephemeral disk",
            f"has {new.ephemeral_gb} GiB, and the instance keeps "
            f"{old.ephemeral_gb} GiB; choose a flavor that has the same",
        )


def paths(directory: str) -> list[str]:
    """Return the disks in the directory of an instance, in their order."""
    numbered = glob.glob(f"{glob.escape(directory)}/{_NUMBERED}*")
    found = [f"{directory}/{_DEFAULT}"]
    found += [f"{directory}/{_NUMBERED}{n}" for n in range(len(numbered))]
    return [*filter(os.path.isfile, found)]


def volumes(instance: Any) -> tuple[Volume, ...]:
    """Return the disks of an instance as volumes."""
    directory = libvirt_utils.get_instance_path(instance)
    return tuple(
        Volume(path, f"{TARGET}{number or ''}", image=True)
        for number, path in enumerate(paths(directory))
    )
