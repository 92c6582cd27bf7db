# SPDX-License-Identifier: Apache-2.0
"""Extra specs as Nova's API checks them, when a flavor is given one.

Nova finds them by the entry point ``nova.api.extra_spec_validators`` of the
distribution ``lxc-userns-nova``.
"""

from __future__ import annotations

from nova.api.validation.extra_specs import base

from lxc_userns.nova.extra_specs import MODE, RANGE_SIZE


def register() -> list[base.ExtraSpecValidator]:
    """Return a validator for each extra spec that the driver obeys."""
    return [
        base.ExtraSpecValidator(
            name=MODE,
            description=(
                "User namespace of a container: one of its own, or the "
                "host's. Only for libvirt-LXC with lxc-userns."
            ),
            value={
                "type": str,
                "description": "Mode of isolation",
                "enum": ["private", "host"],
            },
        ),
        base.ExtraSpecValidator(
            name=RANGE_SIZE,
            description=(
                "Number of user IDs and of group IDs that a container "
                "leases. Only for libvirt-LXC with lxc-userns."
            ),
            value={
                "type": int,
                "description": "Number of IDs",
                "min": 6,
                "max": 2**32 - 2,
            },
        ),
    ]
