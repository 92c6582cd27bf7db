# SPDX-License-Identifier: Apache-2.0
"""Resources of a host for its containers, as Nova's scheduler counts."""

from __future__ import annotations

from typing import Any, Final

from nova.virt.libvirt import config as vconfig
from oslo_config import cfg
from oslo_log import log as logging

from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import LxcUsernsError
from lxc_userns.leases.allocation import capacity
from lxc_userns.leases.pool import read_pools

LOG = logging.getLogger(__name__)

#: Resource class of ranges of host IDs, of which each instance leases one.
RANGES: Final = "CUSTOM_LXC_USERNS_RANGE"
#: Microseconds; the kernel's own.
_PERIOD: Final = 100_000


def add_ranges(
    conf: cfg.ConfigOpts, inventory: dict[str, Any], *, is_known: bool
) -> None:
    """Put into a host's inventory how many ranges its pool has.

    :param inventory: that of placement, without any if there is no pool, or
        it has no range.
    :param is_known: whether placement has an inventory of ranges.
    """
    total = _count_ranges(conf)
    if not (total or is_known):
        return
    # Instances may have some by an inventory of before, and of what is in use
    # placement removes none: nova-compute would not start.
    shown = total or 1
    inventory[RANGES] = {
        "total": shown,
        "reserved": shown - total,
        "min_unit": 1,
        "max_unit": shown,
        "step_size": 1,
        "allocation_ratio": 1.0,
    }


def _count_ranges(conf: cfg.ConfigOpts) -> int:
    settings = Settings.from_conf(conf)
    if not settings.has_pool:
        return 0
    try:
        return min(
            capacity(pool.ids, pool.free, settings.range_size)
            for _, pool in read_pools(settings.subid_owner)
        )
    except LxcUsernsError as err:
        LOG.warning("%s", err)
        return 0


def limit_cpus(guest: Any, flavor: Any) -> None:
    """Let a guest use as much time as its flavor has processors.

    libvirt shows a container all of the host's. What the flavor says itself
    by ``quota:cpu_quota`` stays.

    :param guest: Nova's ``LibvirtConfigGuest``.
    """
    if guest.cputune is None:
        guest.cputune = vconfig.LibvirtConfigGuestCPUTune()
    if guest.cputune.quota is None:
        guest.cputune.period = guest.cputune.period or _PERIOD
        guest.cputune.quota = flavor.vcpus * guest.cputune.period
