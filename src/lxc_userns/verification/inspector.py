# SPDX-License-Identifier: Apache-2.0
"""Inspector: the steps of a verification, each of which can be replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxc_userns import resources
from lxc_userns.instances.verified import Verified
from lxc_userns.linux import hostname
from lxc_userns.verification import (
    Observed,
    mismatches,
    observe,
    revoke,
    ucounts,
)

if TYPE_CHECKING:
    from lxc_userns.linux.process import Process


def _set_hostname(init: Process, name: str) -> None:
    with init.opened_namespace("uts") as namespace:
        hostname.write(namespace, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspector:
    """Steps of a verification; the parameters are those of the functions.

    :param revoke: takes what a container could write, and had better not.
    :param observe: looks at it.
    :param compare: finds where it is not as expected.
    :param enforce: sets its limits, and compares them.
    :param differences: compares its limits alone.
    :param limit: limits it in what all containers share.
    :param mark: marks its start.
    :param name: gives it its host name.
    :param sleep: waits for one that reboots.
    """

    revoke: Callable[[Process], Iterable[str]] = revoke
    observe: Callable[[str, Process], Observed] = observe
    compare: Callable[..., Iterable[str]] = mismatches
    enforce: Callable[..., Iterable[str]] = resources.enforce
    differences: Callable[..., Iterable[str]] = resources.differences
    limit: Callable[[Process], object] = ucounts.apply
    mark: Callable[[Process], Verified] = Verified.now
    name: Callable[[Process, str], object] = _set_hostname
    sleep: Callable[[float], object] = time.sleep
