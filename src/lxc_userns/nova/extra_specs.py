# SPDX-License-Identifier: Apache-2.0
"""Extra specs: what a flavor asks for, if the operator allows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lxc_userns.exceptions import NeedsError
from lxc_userns.idmap import ID_LIMIT, TTY_GID
from lxc_userns.spec.requirements import Requirements

#: ``private`` or ``host``, see :class:`lxc_userns.Requirements`.
MODE: Final = "lxc_userns:mode"
#: How many IDs an instance of the flavor leases.
RANGE_SIZE: Final = "lxc_userns:range_size"


def to_request(extra_specs: Mapping[str, str]) -> dict[str, Any]:
    """Return the parts of a request that a flavor decides.

    :param extra_specs: those of the flavor; others are passed over.
    :raises NeedsError: if a value cannot be used.
    """
    mode = extra_specs.get(MODE)
    if mode not in (None, "private", "host"):
        raise NeedsError(MODE, str(mode), "is not private or host")
    size = extra_specs.get(RANGE_SIZE)
    if size is not None and not (size.isascii() and size.isdecimal()):
        raise NeedsError(RANGE_SIZE, size, "is not a number")
    if size is not None and not TTY_GID < int(size) < ID_LIMIT:
        reason = f"expected {TTY_GID + 1}..{ID_LIMIT - 1}"
        raise NeedsError(RANGE_SIZE, size, reason)
    return {
        "needs": Requirements(mode),  # type: ignore[arg-type]
        "range_size": None if size is None else int(size),
    }


def check_same(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Check that a flavor asks for the ID maps that another has asked for.

    :param old: extra specs of the instance's flavor.
    :param new: those of the flavor that it is to get.
    :raises NeedsError: if they differ, or a value cannot be used.
    """
    to_request(new)
    for name in (MODE, RANGE_SIZE):
        if old.get(name) != new.get(name):
            had = f"{name} = {old[name]}" if name in old else f"no {name}"
            raise NeedsError(
                name,
                new.get(name, "none"),
                f"the instance's flavor has {had}, which it keeps; choose a "
                "flavor that has the same, or create another instance",
            )
