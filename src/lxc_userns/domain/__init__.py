# SPDX-License-Identifier: Apache-2.0
"""Domain XML of libvirt's LXC driver: what an instance needs put into it.

Pure: text and values in, text and values out. Malformed XML is a
:class:`~lxc_userns.exceptions.DomainXmlError`.
"""

from lxc_userns.domain.convertible import Convertible, read_convertible
from lxc_userns.domain.document import read_uuid
from lxc_userns.domain.edit import add_id_maps
from lxc_userns.domain.features import Capabilities
from lxc_userns.domain.filesystem import Filesystem, read_root_source
from lxc_userns.domain.idmaps import read_id_maps
from lxc_userns.domain.init import Init
from lxc_userns.domain.interface import Interface, read_bridges
from lxc_userns.domain.metadata import NAMESPACE, Marker, read_marker
from lxc_userns.domain.model import Domain
from lxc_userns.domain.parts import DomainParts, apply

__all__ = [
    "NAMESPACE",
    "Capabilities",
    "Convertible",
    "Domain",
    "DomainParts",
    "Filesystem",
    "Init",
    "Interface",
    "Marker",
    "add_id_maps",
    "apply",
    "read_bridges",
    "read_convertible",
    "read_id_maps",
    "read_marker",
    "read_root_source",
    "read_uuid",
]
