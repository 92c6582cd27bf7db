# SPDX-License-Identifier: Apache-2.0

from lxc_userns import privileged as privileged
from lxc_userns import rootfs as rootfs
from lxc_userns.audit import Finding as Finding
from lxc_userns.audit import audit_domain as audit_domain
from lxc_userns.config.options import register_opts as register_opts
from lxc_userns.config.settings import load_id_maps as load_id_maps
from lxc_userns.domain import add_id_maps as add_id_maps
from lxc_userns.exceptions import LxcUsernsError as LxcUsernsError
from lxc_userns.idmap import IdMap as IdMap
from lxc_userns.idmap import IdMapEntry as IdMapEntry
from lxc_userns.idmap import IdMaps as IdMaps
from lxc_userns.instances.prepared import PreparedInstance as PreparedInstance
from lxc_userns.manager import UserNamespaceManager as UserNamespaceManager
from lxc_userns.spec.request import InstanceRequest as InstanceRequest
from lxc_userns.spec.requirements import Needs as Needs
from lxc_userns.spec.requirements import Requirements as Requirements
from lxc_userns.spec.volume import Volume as Volume
