# SPDX-License-Identifier: Apache-2.0
"""Plan of a run, for its inside."""

import dataclasses

from private_libvirtd.plan import Plan


@dataclasses.dataclass(frozen=True, slots=True)
class ReleasePlan(Plan):
    """Plan of a run in a release.

    :param directory: has the run's ``disk``, ``checkout.tar`` and, empty,
        ``root``.
    """

    directory: str
