# SPDX-License-Identifier: Apache-2.0
"""What a service that is not root has done by a process that is.

The functions run in a daemon of oslo.privsep, or in the calling process if
that is root and has no daemon. Only plain values cross.
"""

from __future__ import annotations

from typing import Any

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

from lxc_userns import conf as options
from lxc_userns.config_check import check_config
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.needs import Needs
from lxc_userns.request import InstanceRequest, PreparedInstance

#: Why each is needed: mounts and user namespaces (SYS_ADMIN), ID maps of
#: others (SETUID, SETGID), owners on disk (CHOWN), in trees that belong to
#: others (DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER), with set-ID bits (FSETID),
#: file capabilities (SETFCAP) and flags (LINUX_IMMUTABLE); to look at
#: containers (SYS_PTRACE) and what they have mounted (SYS_CHROOT).
CONTEXT = priv_context.PrivContext(
    "lxc_userns",
    cfg_section="lxc_userns_privileged",
    pypath=f"{__name__}.CONTEXT",
    capabilities=[
        capabilities.CAP_CHOWN,
        capabilities.CAP_DAC_OVERRIDE,
        capabilities.CAP_DAC_READ_SEARCH,
        capabilities.CAP_FOWNER,
        capabilities.CAP_FSETID,
        capabilities.CAP_KILL,
        capabilities.CAP_LINUX_IMMUTABLE,
        capabilities.CAP_SETFCAP,
        capabilities.CAP_SETGID,
        capabilities.CAP_SETPCAP,
        capabilities.CAP_SETUID,
        capabilities.CAP_SYS_ADMIN,
        capabilities.CAP_SYS_CHROOT,
        capabilities.CAP_SYS_PTRACE,
    ],
)


def _manager() -> UserNamespaceManager:
    # In the daemon these are the same files, read by it.
    options.register_opts(cfg.CONF)
    return UserNamespaceManager(cfg.CONF)


@CONTEXT.entrypoint
def find_problems() -> list[str]:
    """Why no instance could be started; empty if the configuration is good."""
    options.register_opts(cfg.CONF)
    return [
        f"{each.option}{f' = {each.value}' if each.value else ''}: "
        f"{each.message}"
        for each in check_config(cfg.CONF)
        if each.severity == "problem"
    ]


@CONTEXT.entrypoint
def reserve(request: dict[str, Any]) -> dict[str, Any]:
    """As :meth:`UserNamespaceManager.reserve`.

    :param request: the fields of an :class:`InstanceRequest` that differ
        from their defaults.
    :returns: as :func:`prepare`.
    """
    return _plain(_manager().reserve(_request(request)))


@CONTEXT.entrypoint
def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """As :meth:`UserNamespaceManager.prepare`.

    :param request: as for :func:`reserve`.
    :returns: ``mode``, ``mode_reasons``, ``uid_maps`` and ``gid_maps`` (lists
        of three numbers for each entry, empty without a user namespace),
        ``root``, ``needs_private_network`` and ``dropped_capabilities``.
    """
    return _plain(_manager().prepare(_request(request)))


@CONTEXT.entrypoint
def verify(name: str, fresh: bool) -> None:
    """As :meth:`UserNamespaceManager.verify`."""
    _manager().verify(name, fresh=fresh)


@CONTEXT.entrypoint
def detach(name: str) -> None:
    """As :meth:`UserNamespaceManager.detach`."""
    _manager().detach(name)


@CONTEXT.entrypoint
def release(name: str) -> None:
    """As :meth:`UserNamespaceManager.release`."""
    _manager().release(name)


@CONTEXT.entrypoint
def sync(name: str) -> None:
    """As :meth:`UserNamespaceManager.sync`."""
    _manager().sync(name)


def _request(values: dict[str, Any]) -> InstanceRequest:
    needs = Needs(**values["needs"]) if "needs" in values else Needs()
    return InstanceRequest(**{**values, "needs": needs})


def _plain(prepared: PreparedInstance) -> dict[str, Any]:
    maps = prepared.id_maps
    return {
        "mode": prepared.mode,
        "mode_reasons": [*prepared.mode_reasons],
        "uid_maps": _entries(maps, "uid"),
        "gid_maps": _entries(maps, "gid"),
        "root": prepared.root,
        "needs_private_network": prepared.needs_private_network,
        "dropped_capabilities": [*prepared.dropped_capabilities],
    }


def _entries(maps: IdMaps | None, kind: str) -> list[list[int]]:
    if maps is None:
        return []
    id_map: IdMap = getattr(maps, kind)
    # libvirt makes the first entry's host ID the owner of devices.
    return [[each.guest, each.host, each.count] for each in sorted(id_map)]
