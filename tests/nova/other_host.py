# SPDX-License-Identifier: Apache-2.0
"""A second compute host, which only says that it runs what it is given."""

from typing import Any

from nova.virt import fake
from oslo_config import cfg

from tests.nova.harness import OTHER_HOST


class OtherHost(fake.MediumFakeDriver):  # type: ignore[misc]
    """Hypervisor of the host that servers move to and come from."""

    #: Whether it has the directory of the instances as well.
    is_sharing = False

    def get_host_ip_addr(self) -> str:
        """Address of the first host: disks are copied on it, not by ssh."""
        return str(cfg.CONF.my_ip)

    def check_instance_shared_storage_remote(self, *_: object) -> bool:
        """Return whether it sees a file of the first host."""
        return self.is_sharing

    def migrate_disk_and_power_off(self, *_: object, **__: object) -> str:
        """Give no disks away: the first host makes them from the image."""
        return "[]"


def start(requests: Any, is_sharing: bool) -> None:
    """Start it, beside the first one.

    :param requests: the service's.
    """
    fake.OtherHost = OtherHost
    OtherHost.is_sharing = is_sharing
    conf, host = cfg.CONF, cfg.CONF.host
    conf.set_override("compute_driver", "fake.OtherHost")
    requests.nova.computes[OTHER_HOST] = requests.nova.start_service(
        "compute", host=OTHER_HOST
    )
    # The option is the process's, and the first one's driver reads it.
    conf.clear_override("compute_driver")
    conf.set_override("host", host)
