# SPDX-License-Identifier: Apache-2.0
"""Domain XML of libvirt's LXC driver: build it, read it, add ID maps to it.

Pure: text and values in, text and values out. ::

    Domain(
        name="web1",
        memory_mib=512,
        init=Init("/sbin/init"),
        id_maps=id_maps,
        filesystems=[
            Filesystem.mount("/run/lxc-userns/web1/root", "/"),
            Filesystem.ram("/tmp", size_kib=65536),
        ],
        interfaces=[Interface.network("default")],
        metadata={"mode": "private"},
    ).to_xml()

All errors are :class:`~lxc_userns.exceptions.DomainXmlError`.
"""

from lxc_userns.domain.edit import add_id_maps
from lxc_userns.domain.features import Capabilities, Features
from lxc_userns.domain.filesystem import Filesystem, read_root_source
from lxc_userns.domain.idmaps import read_id_maps
from lxc_userns.domain.init import Init
from lxc_userns.domain.interface import (
    HostInterface,
    Interface,
    InterfaceOptions,
    read_bridges,
)
from lxc_userns.domain.metadata import NAMESPACE, read_metadata
from lxc_userns.domain.model import Domain
from lxc_userns.domain.namespaces import SharedNamespace, SharedNamespaces
from lxc_userns.domain.seclabel import SecLabel
from lxc_userns.domain.tuning import BlockDevice, Tuning

__all__ = [
    "NAMESPACE",
    "BlockDevice",
    "Capabilities",
    "Domain",
    "Features",
    "Filesystem",
    "HostInterface",
    "Init",
    "Interface",
    "InterfaceOptions",
    "SecLabel",
    "SharedNamespace",
    "SharedNamespaces",
    "Tuning",
    "add_id_maps",
    "read_bridges",
    "read_id_maps",
    "read_metadata",
    "read_root_source",
]
