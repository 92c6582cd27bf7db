# SPDX-License-Identifier: Apache-2.0

from lxc_userns.domain.convertible import Convertible as Convertible
from lxc_userns.domain.convertible import read_convertible as read_convertible
from lxc_userns.domain.document import MAX_SIZE as MAX_SIZE
from lxc_userns.domain.document import read_uuid as read_uuid
from lxc_userns.domain.edit import add_id_maps as add_id_maps
from lxc_userns.domain.features import Capabilities as Capabilities
from lxc_userns.domain.filesystem import Filesystem as Filesystem
from lxc_userns.domain.filesystem import read_root_source as read_root_source
from lxc_userns.domain.idmaps import maps_root as maps_root
from lxc_userns.domain.idmaps import read_id_maps as read_id_maps
from lxc_userns.domain.init import Init as Init
from lxc_userns.domain.interface import Interface as Interface
from lxc_userns.domain.interface import read_bridges as read_bridges
from lxc_userns.domain.interface import (
    read_network_names as read_network_names,
)
from lxc_userns.domain.interface import read_networks as read_networks
from lxc_userns.domain.metadata import NAMESPACE as NAMESPACE
from lxc_userns.domain.metadata import Marker as Marker
from lxc_userns.domain.metadata import read_marker as read_marker
from lxc_userns.domain.model import Domain as Domain
from lxc_userns.domain.parts import DomainParts as DomainParts
from lxc_userns.domain.parts import apply as apply
from lxc_userns.domain.seclabel import is_cleared as is_cleared
from lxc_userns.domain.seclabel import parse_models as parse_models
