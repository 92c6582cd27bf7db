# SPDX-License-Identifier: Apache-2.0
"""Guests of Nova's configuration, made to fit what was allocated for them."""

import libvirt
import pytest
from lxml import etree

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.resources import partition as groups
from lxc_userns.spec.strategy import Strategy

NAME = "lxc-userns-test-guest"
PARTITION = f"/machine/lxc-userns-{NAME}.partition"
MAP = IdMap.parse("0:100000:65536")
ALLOCATED = PreparedInstance(
    InstanceRecord(
        name=NAME,
        uuid="0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c",
        rootfs="/srv/disk",
        id_maps=IdMaps(MAP, MAP),
        strategy=Strategy.IDMAPPED,
        view="/srv/root",
        dropped=("sys_resource",),
    )
)


def make_xml() -> str:
    """The domain of a guest, as Nova gives it to libvirt."""
    # Their warnings would be errors while tests are collected.
    from nova.virt.libvirt import config as vconfig

    from lxc_userns.nova import guest_config

    guest = vconfig.LibvirtConfigGuest()
    guest.virt_type, guest.os_type, guest.name = "lxc", "exe", NAME
    guest.uuid = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
    guest.os_init_path = "/sbin/init"
    filesystem = vconfig.LibvirtConfigGuestFilesys()
    filesystem.source_dir = "/srv/else"
    guest.add_device(filesystem)
    guest_config.apply(guest, ALLOCATED)
    # Nova asks for it more than once.
    assert guest.to_xml() == guest.to_xml()
    return str(guest.to_xml())


@pytest.mark.parametrize("partition", [None, PARTITION])
def test_a_partition(
    connection: libvirt.virConnect,
    partition: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Limits hold in a group above the container's own."""
    monkeypatch.setattr(groups, "find", lambda _name: partition)
    domain = connection.defineXML(make_xml())
    try:
        kept = etree.fromstring(domain.XMLDesc())
    finally:
        domain.undefine()
    found = kept.findtext("resource/partition")
    assert found == partition
    assert kept.find("features/capabilities/sys_resource") is not None
    source = kept.find("devices/filesystem/source")
    assert source is not None
    assert source.get("dir") == "/srv/root"
