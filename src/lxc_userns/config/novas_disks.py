# SPDX-License-Identifier: Apache-2.0
"""Nova's options for the disks of its instances.

The kernel mounts raw ones alone, which Nova makes only when it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from oslo_config import cfg
from oslo_config.types import Boolean

from lxc_userns.exceptions import ConfigError

_REMEDY: Final = (
    "set [libvirt] images_type = raw and [DEFAULT] use_cow_images = False"
)


def evaluate(images_type: str, use_cow_images: bool) -> Iterator[ConfigError]:
    """Yield what is wrong with values of Nova's options.

    :param images_type: that of ``[libvirt]``.
    :param use_cow_images: that of ``[DEFAULT]``.
    """
    if images_type == "default" and use_cow_images:
        reason = "as by default, disks are qcow2, which the kernel does"
        name, value = "[DEFAULT] use_cow_images", "True"
    elif images_type in ("qcow2", "rbd", "ploop"):
        reason = "the kernel does"
        name, value = "[libvirt] images_type", images_type
    else:
        return
    yield ConfigError(name, value, f"{reason} not mount; {_REMEDY}")


def find_problems(conf: cfg.ConfigOpts) -> Iterator[ConfigError]:
    """Yield what is wrong if the configuration is that of a compute host.

    :param conf: a configuration object, which need not know these options;
        what it has read counts.
    """
    if _read(conf, "libvirt", "virt_type", "") != "lxc":
        return
    images_type = _read(conf, "libvirt", "images_type", "default")
    try:
        cow = Boolean()(_read(conf, "default", "use_cow_images", "True"))
    except ValueError:
        return  # Nova does not start.
    yield from evaluate(images_type, cow)


def _read(
    conf: cfg.ConfigOpts, section: str, option: str, default: str
) -> str:
    # There is no public way to options that are not registered.
    if conf._namespace is not None:
        # The last file is the first there.
        for file in conf._namespace._parsed:
            for name, options in file.items():
                if name.lower() == section and option in options:
                    return str(options[option][-1])
    return default
