# SPDX-License-Identifier: Apache-2.0
"""User namespaces for libvirt-LXC containers.

The public API, importable from here; everything else may change. The names
are loaded when they are first used, so that importing the package costs
nothing and loads neither libvirt nor any option.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxc_userns import rootfs as rootfs
    from lxc_userns.audit import Finding as Finding
    from lxc_userns.audit import audit_domain as audit_domain
    from lxc_userns.config.options import load_id_maps as load_id_maps
    from lxc_userns.config.options import register_opts as register_opts
    from lxc_userns.domain import add_id_maps as add_id_maps
    from lxc_userns.exceptions import LxcUsernsError as LxcUsernsError
    from lxc_userns.idmap import IdMap as IdMap
    from lxc_userns.idmap import IdMapEntry as IdMapEntry
    from lxc_userns.idmap import IdMaps as IdMaps
    from lxc_userns.instances.prepared import (
        PreparedInstance as PreparedInstance,
    )
    from lxc_userns.manager import UserNamespaceManager as UserNamespaceManager
    from lxc_userns.spec.request import InstanceRequest as InstanceRequest
    from lxc_userns.spec.requirements import Needs as Needs
    from lxc_userns.spec.requirements import Requirements as Requirements
    from lxc_userns.spec.volume import Volume as Volume

_HOMES = {
    "Finding": "audit",
    "IdMap": "idmap",
    "IdMapEntry": "idmap",
    "IdMaps": "idmap",
    "InstanceRequest": "spec.request",
    "LxcUsernsError": "exceptions",
    "Needs": "spec.requirements",
    "PreparedInstance": "instances.prepared",
    "Requirements": "spec.requirements",
    "UserNamespaceManager": "manager",
    "Volume": "spec.volume",
    "add_id_maps": "domain",
    "audit_domain": "audit",
    "load_id_maps": "config.options",
    "register_opts": "config.options",
    "rootfs": "rootfs",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    try:
        home = import_module(f"{__name__}.{_HOMES[name]}")
    except KeyError:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}"
        ) from None
    value = home if _HOMES[name] == name else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
