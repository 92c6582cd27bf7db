# SPDX-License-Identifier: Apache-2.0
"""Errors of ours as kinds of Nova's, which decide what it does next.

Of what it does not know Nova shows the name of the class alone, and tries a
build that has failed on other hosts until there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from nova import exception
from nova.compute import vm_states
from oslo_log import log as logging

from lxc_userns import exceptions as ours

LOG = logging.getLogger(__name__)

#: What was asked for cannot be had, on whatever host: policy and flavor. What
#: is wrong with the configuration of a host is no reason to try no other.
_FINAL: Final = (
    ours.ArgumentError,
    ours.IdMapError,
    ours.NeedsError,
    ours.PolicyError,
    ours.UnmappedIdsError,
    ours.VolumeError,
)


@contextmanager
def as_novas(instance: Any) -> Iterator[None]:
    """Raise errors of ours as Nova's, with their texts.

    :raises nova.exception.NovaException: if one is raised in the context.
    """
    try:
        yield
    except ours.LxcUsernsError as err:
        # Where Nova tries another host in vain, it tells no more than that.
        LOG.warning("%s", err, instance=instance)
        raise to_novas(err, instance) from err


@contextmanager
def as_refusals() -> Iterator[None]:
    """Raise errors of ours so that Nova leaves the instance as it was.

    :raises nova.exception.InstanceFaultRollback: if one is raised in the
        context.
    """
    try:
        yield
    except ours.LxcUsernsError as err:
        raise exception.InstanceFaultRollback(
            exception.ResizeError(reason=str(err))
        ) from err


def to_novas(
    err: ours.LxcUsernsError, instance: Any
) -> exception.NovaException:
    """Return an error of Nova's for one of ours."""
    if isinstance(err, ours.ImageError):
        return exception.ImageUnacceptable(
            image_id=instance.image_ref, reason=err.reason
        )
    if isinstance(err, ours.LeaseError):
        return exception.ComputeResourcesUnavailable(reason=str(err))
    is_built = instance.vm_state == vm_states.BUILDING
    if is_built and isinstance(err, _FINAL):
        return exception.BuildAbortException(
            instance_uuid=instance.uuid, reason=str(err)
        )
    return exception.NovaException(str(err))
