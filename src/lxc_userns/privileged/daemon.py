# SPDX-License-Identifier: Apache-2.0
"""The process that is root: its verbs, and what it lets a service ask for.

Its manager and its connection to libvirt last as long as the process does.
Threads call them at the same time. The annotations of a verb are what may
cross.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from typing import Any, Final

from oslo_config import cfg

from lxc_userns.arguments import refuse
from lxc_userns.config import options
from lxc_userns.config.allowed_paths import check_root, read_roots
from lxc_userns.config.check import check_config
from lxc_userns.config.values import check_same, read_values
from lxc_userns.exceptions import (
    ConfigError,
    InstanceError,
    LxcUsernsError,
    PrerequisiteError,
)
from lxc_userns.findings import Severity
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import check_name
from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux import hard_links
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.privileged import wire
from lxc_userns.privileged.context import CONTEXT
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.verification import VerifiedInstance

#: Fields of a request that are the service's to choose. Of any other it
#: leaves the default to the configuration of the helper.
CHOOSABLE: Final = frozenset(
    {
        "grow", "hostname", "name", "needs", "program", "range_size", "rootfs",
        "rootfs_kind", "security_model", "uuid", "volumes",
    }
)  # fmt: skip
_GUESTS: Final = Guests()


@CONTEXT.entrypoint
def perform(configured: object, verb: object, arguments: object) -> Any:
    """Do one of the verbs, as the process that is root.

    There is no other way in, so that none goes without the comparison.

    :param configured: the values of our options in the service.
    :param arguments: as :func:`wire.encode` gives them, by name.
    :returns: as :func:`wire.encode` gives it.
    :raises ConfigError: if a value differs from the helper's own.
    :raises ArgumentError: if there is no such verb, or these are no arguments
        of it.
    """
    options.register_opts(cfg.CONF)
    values = wire.decode(
        "perform", "configured", Mapping[str, str], configured
    )
    check_same(read_values(cfg.CONF), values)
    name = wire.decode("perform", "verb", str, verb)
    if name not in VERBS:
        known = ", ".join(sorted(VERBS))
        refuse("perform", "verb", name, f"give {known}")
    function = VERBS[name]
    given = wire.decode_arguments(function, arguments)
    return wire.encode(function(**given))


def find_problems() -> tuple[str, ...]:
    """Return why no instance could be started."""
    problems: list[LxcUsernsError] = [
        ConfigError(each.code, each.subject, each.message)
        for each in check_config(cfg.CONF)
        if each.severity >= Severity.ERROR
    ]
    try:
        for root in _read_roots():
            check_root(root)
    except (ConfigError, PrerequisiteError) as err:
        problems.append(err)
    # check_config() looks at those that are written down, too.
    return tuple(dict.fromkeys(map(str, problems)))


def allocate(request: InstanceRequest) -> PreparedInstance:
    """Allocate ID maps, for what the service may ask for."""
    _check_request(request)
    return _manager().allocate(request)


def prepare(
    request: InstanceRequest | str, accept_replaced: bool
) -> PreparedInstance:
    """Prepare an instance, from what the service may ask for."""
    if isinstance(request, str):
        _read_roots()
    else:
        _check_request(request)
    return _manager().prepare(request, accept_replaced=accept_replaced)


def verify(
    instance: str | PreparedInstance, started: bool
) -> VerifiedInstance:
    """Verify an instance by the helper's own record of it."""
    return _manager().verify(instance, started=started)


def unmount(instance: str | PreparedInstance) -> None:
    """Unmount the views of an instance."""
    _manager().unmount(instance)


def release(instance: str | PreparedInstance) -> None:
    """Release an instance."""
    _manager().release(instance)


def sync(instance: str | PreparedInstance) -> None:
    """Write to disk what the kernel has of an instance."""
    _manager().sync(instance)


VERBS: Final[Mapping[str, Callable[..., Any]]] = {
    each.__name__: each
    for each in (
        find_problems, allocate, prepare, verify, unmount,
        release, sync,
    )
}  # fmt: skip


@cache
def _manager() -> UserNamespaceManager:
    roots: tuple[str, ...] = ()
    # Who names files is told what is wrong; to release takes none.
    with suppress(ConfigError):
        roots = read_roots(cfg.CONF)
    return UserNamespaceManager(cfg.CONF, _GUESTS, roots=roots)


def _read_roots() -> tuple[str, ...]:
    """Return where the service may have files, if it has its own alone."""
    roots = read_roots(cfg.CONF)
    hard_links.check_protected()
    return roots


def _check_request(request: InstanceRequest) -> None:
    """Refuse what only the configuration of the helper decides."""
    check_name(request.name)
    _read_roots()
    for each in fields(request):
        if (
            each.name not in CHOOSABLE
            and getattr(request, each.name) is not None
        ):
            raise InstanceError(
                request.name,
                f"the service cannot choose {each.name}; leave it to the "
                "configuration of the privileged helper",
            )
    if request.rootfs_kind is None:
        # The content would decide what is done with it.
        raise InstanceError(
            request.name,
            "rootfs_kind is missing; give directory, image or archive",
        )
    if any(volume.owned for volume in request.volumes):
        raise InstanceError(
            request.name,
            "the service cannot choose the option owned; leave it out",
        )
