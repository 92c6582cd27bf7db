# SPDX-License-Identifier: Apache-2.0
"""The verbs as the service calls them, in a process that is not root."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Final, ParamSpec, TypeVar

from oslo_config import cfg
from oslo_privsep import comm
from oslo_privsep import daemon as privsep

from lxc_userns.arguments import checked
from lxc_userns.config import options
from lxc_userns.config.values import read_values
from lxc_userns.exceptions import ArgumentError, PrerequisiteError
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.privileged import daemon, wire
from lxc_userns.privileged.context import CONTEXT, SECTION
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.verification import VerifiedInstance

_P = ParamSpec("_P")
_R = TypeVar("_R")

_INSTANCE: Final = (str, PreparedInstance)
#: What there is when the helper does not start, ends, or does not answer.
_GONE: Final = (
    OSError,
    comm.PrivsepTimeout,
    privsep.FailedToDropPrivileges,
    privsep.ProtocolError,
)


def find_problems() -> list[str]:
    """Return why no instance could be started; empty if nothing is wrong.

    To be called when the service starts, which starts the helper.
    """
    return [*_call(daemon.find_problems)]


@checked(request=InstanceRequest)
def allocate(request: InstanceRequest) -> PreparedInstance:
    """Allocate mode and ID maps, as the manager's verb of this name.

    :param request: without ``id_maps``, ``strategy`` and ``max_processes``,
        which the helper's configuration decides, and with ``rootfs_kind``.
        Its devices are below the helper's roots.
    :raises InstanceError: if it asks for anything else.
    """
    return _call(daemon.allocate, request)


@checked(request=(InstanceRequest, str))
def prepare(
    request: InstanceRequest | str, *, accept_replaced: bool = False
) -> PreparedInstance:
    """Prepare an instance, as the manager's verb of this name.

    :param request: as for :func:`allocate`, or a name: as was promised.
        Root filesystem, volumes and devices are below the helper's roots, by
        a name as well. What is on a block device by a link of such a
        directory is prepared by its request alone: the device's own name is
        elsewhere.
    :param accept_replaced: whether root filesystem and volumes may be other
        files than when it was first prepared, under the same paths.
    :raises RootfsError: if one is anywhere else, or anything else is wrong
        with it.
    """
    return _call(daemon.prepare, request, accept_replaced)


@checked(instance=_INSTANCE)
def verify(
    instance: str | PreparedInstance, *, started: bool
) -> VerifiedInstance:
    """Verify a running container, as the manager's verb of this name.

    It is compared with the helper's own record of it.
    """
    return _call(daemon.verify, instance, started)


@checked(instance=_INSTANCE)
def unmount(instance: str | PreparedInstance) -> None:
    """Unmount the views of a stopped instance, as the manager's verb."""
    _call(daemon.unmount, instance)


@checked(instance=_INSTANCE)
def release(instance: str | PreparedInstance) -> None:
    """Release an instance, as the manager's verb of this name."""
    _call(daemon.release, instance)


@checked(instance=_INSTANCE)
def sync(instance: str | PreparedInstance) -> None:
    """Write an instance's files to disk, as the manager's verb."""
    _call(daemon.sync, instance)


def _call(verb: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Do one of the daemon's verbs there."""
    options.register_opts(cfg.CONF)
    given = signature(verb).bind(*args, **kwargs).arguments
    answer = _send(verb.__name__, wire.encode(given))
    try:
        result: _R = wire.decode_result(verb, answer)
    except ArgumentError as err:
        raise PrerequisiteError(
            f"privileged helper: its answer cannot be read: {err}; start the "
            "service again, so that both are of one version"
        ) from err
    return result


def _send(verb: str, arguments: dict[str, Any]) -> object:
    values = read_values(cfg.CONF)
    try:
        return daemon.perform(values, verb, arguments)
    except _GONE as err:
        if not CONTEXT.client_mode:  # It is the verb's own.
            raise
        raise PrerequisiteError(
            f"privileged helper: {err}; see [{SECTION}] helper_command and "
            "the log of the service"
        ) from err
