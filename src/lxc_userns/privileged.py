# SPDX-License-Identifier: Apache-2.0
"""Privileged helper of a service that is not root.

The functions run in a daemon of oslo.privsep, or in the calling process if
that is root and has no daemon. Only plain values cross. The daemon has read
configuration files of its own: with each call it is told what the service has,
and it serves none that has anything else.

The service is trusted with names, with a mode within the policy, and with the
size of a lease. It is not with paths: root filesystems, volumes and devices
are below directories that the helper's configuration names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

from lxc_userns.arguments import check_items, check_type, refuse
from lxc_userns.config import options
from lxc_userns.config.allowed_paths import check_root, read_roots
from lxc_userns.config.check import check_config
from lxc_userns.config.values import check_same, read_values
from lxc_userns.exceptions import ConfigError, InstanceError
from lxc_userns.findings import Severity
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import check_name
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import Requirements
from lxc_userns.spec.volume import Volume

#: Why each is needed: mounts and user namespaces (SYS_ADMIN), ID maps of
#: others (SETUID, SETGID), owners on disk (CHOWN), in trees that belong to
#: others (DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER), with set-ID bits (FSETID),
#: file capabilities (SETFCAP) and flags (LINUX_IMMUTABLE); to look at
#: containers (SYS_PTRACE) and what they have mounted (SYS_CHROOT); disks are
#: mounted in a root directory with no other device (MKNOD, SYS_CHROOT).
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
        capabilities.CAP_MKNOD,
        capabilities.CAP_SETFCAP,
        capabilities.CAP_SETGID,
        capabilities.CAP_SETPCAP,
        capabilities.CAP_SETUID,
        capabilities.CAP_SYS_ADMIN,
        capabilities.CAP_SYS_CHROOT,
        capabilities.CAP_SYS_PTRACE,
    ],
)


#: Fields of a request that only the configuration decides.
_CONFIGURED: Final = frozenset({"id_maps", "max_processes", "strategy"})
#: Fields of a request that it has to have besides its name.
_REQUIRED: Final = {
    "uuid": "that of the instance",
    "rootfs": "its path",
    "rootfs_kind": "directory, image or archive",
}
_CHOOSABLE: Final = {each.name for each in fields(InstanceRequest)} - (
    _CONFIGURED
)


def find_problems() -> list[str]:
    """Return why no instance could be started; empty if nothing is wrong.

    :raises ConfigError: if the helper is configured in another way than the
        service, as of every function here.
    """
    problems: list[str] = _call("find_problems")
    return problems


def reserve(request: dict[str, Any]) -> dict[str, Any]:
    """Reserve as :meth:`UserNamespaceManager.allocate` does.

    :param request: the fields of an :class:`InstanceRequest` that differ
        from their defaults, as plain values; ``rootfs_kind`` has to. Not
        ``id_maps``, ``strategy`` and ``max_processes``, which the
        configuration decides alone.
    :returns: as :func:`prepare`.
    """
    reserved: dict[str, Any] = _call("reserve", request)
    return reserved


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """Prepare as :meth:`UserNamespaceManager.prepare` does.

    :param request: as for :func:`reserve`. Its root filesystem, volumes and
        devices are below the directories of ``[lxc_userns_privileged] roots``.
    :returns: ``mode``, ``mode_reasons``, ``uid_maps`` and ``gid_maps`` (lists
        of three numbers for each entry, empty without a user namespace),
        ``root``, ``needs_private_network``, ``dropped_capabilities`` and
        ``partition``, the control group for ``<resource>``, None without.
    :raises RootfsError: if one is anywhere else, or anything else is wrong
        with it.
    """
    prepared: dict[str, Any] = _call("prepare", request)
    return prepared


def verify(name: str, started: bool) -> None:
    """Verify as :meth:`UserNamespaceManager.verify` does."""
    _call("verify", name, started)


def detach(name: str) -> None:
    """Unmount as :meth:`UserNamespaceManager.unmount` does."""
    _call("detach", name)


def release(name: str) -> None:
    """Release as :meth:`UserNamespaceManager.release` does."""
    _call("release", name)


def sync(name: str) -> None:
    """Write out as :meth:`UserNamespaceManager.sync` does."""
    _call("sync", name)


def _call(verb: str, *arguments: Any) -> Any:
    options.register_opts(cfg.CONF)
    return perform(read_values(cfg.CONF), verb, arguments)


@CONTEXT.entrypoint
def perform(
    configured: dict[str, str], verb: str, arguments: Sequence[Any]
) -> Any:
    """Do one of the verbs, as the process that is root.

    There is no other way in, so that none goes without the comparison.

    :param configured: the values of our options in the service.
    :raises ConfigError: if one differs from the helper's own.
    """
    options.register_opts(cfg.CONF)
    check_same(read_values(cfg.CONF), configured)
    return _VERBS[verb](*arguments)


def _find_problems() -> list[str]:
    problems = [
        ConfigError(each.code, each.subject, each.message)
        for each in check_config(cfg.CONF)
        if each.severity >= Severity.ERROR
    ]
    try:
        for root in read_roots(cfg.CONF):
            check_root(root)
    except ConfigError as err:
        problems.append(err)
    # check_config() looks at those that are written down, too.
    return [*dict.fromkeys(map(str, problems))]


def _reserve(request: dict[str, Any]) -> dict[str, Any]:
    return _plain(_planner().allocate(_request(request)))


def _prepare(request: dict[str, Any]) -> dict[str, Any]:
    # Below its roots a service puts other disks in place of those that were
    # there, when it resizes or rebuilds an instance.
    planner = _planner()
    return _plain(planner.prepare(_request(request), accept_replaced=True))


def _verify(name: str, started: bool) -> None:
    _manager().verify(name, started=started)


_VERBS: Final[Mapping[str, Callable[..., Any]]] = {
    "find_problems": _find_problems,
    "reserve": _reserve,
    "prepare": _prepare,
    "verify": _verify,
    "detach": lambda name: _manager().unmount(name),
    "release": lambda name: _manager().release(name),
    "sync": lambda name: _manager().sync(name),
}


def _manager() -> UserNamespaceManager:
    return UserNamespaceManager(cfg.CONF)


def _planner() -> UserNamespaceManager:
    return UserNamespaceManager(cfg.CONF, roots=read_roots(cfg.CONF))


def _request(values: dict[str, Any]) -> InstanceRequest:
    check_type("request", "values", values, Mapping)
    name = values.get("name")
    check_type("instance", "name", name, str)
    check_name(str(name))
    for key in sorted(values.keys() - _CHOOSABLE):
        if key not in _CONFIGURED or values[key] is not None:
            raise InstanceError(
                str(name),
                f"the service cannot choose {key}; leave it to the "
                "configuration of the privileged helper",
            )
    # Without the kind, the content would decide what is done with it.
    for key, remedy in _REQUIRED.items():
        if values.get(key) is None:
            raise InstanceError(str(name), f"{key} is missing; give {remedy}")
    chosen = {key: values[key] for key in values.keys() & _CHOOSABLE}
    if "needs" in chosen:
        chosen["needs"] = _needs(chosen["needs"])
    if "volumes" in chosen:
        check_items("request", "volumes", chosen["volumes"], Mapping)
        chosen["volumes"] = tuple(map(Volume.from_dict, chosen["volumes"]))
        if any(volume.owned for volume in chosen["volumes"]):
            raise InstanceError(
                str(name),
                "the service cannot choose the option owned; leave it out",
            )
    return InstanceRequest(**chosen)


def _needs(values: Mapping[str, Any]) -> Requirements:
    check_type("request", "needs", values, Mapping)
    nothing = Requirements().to_dict()
    if unknown := values.keys() - nothing.keys():
        expected = f"expected {', '.join(sorted(nothing))}"
        refuse("request", "needs", sorted(map(str, unknown)), expected)
    return Requirements.from_dict({**nothing, **values})


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
        "partition": prepared.partition,
    }


def _entries(maps: IdMaps | None, kind: str) -> list[list[int]]:
    if maps is None:
        return []
    id_map: IdMap = getattr(maps, kind)
    # libvirt makes the first entry's host ID the owner of devices.
    return [[each.guest, each.host, each.count] for each in sorted(id_map)]
