# SPDX-License-Identifier: Apache-2.0
"""Verification: what runs, compared with what was promised.

The evidence is the kernel's: nothing that the container says of itself
counts, and nothing in it is opened.
"""

from lxc_userns.verification.cgroups import revoke
from lxc_userns.verification.compare import (
    VerifiedInstance,
    describe,
    mismatches,
)
from lxc_userns.verification.expectation import Confinement, Expectation, View
from lxc_userns.verification.observed import Observed, observe

__all__ = [
    "Confinement",
    "Expectation",
    "Observed",
    "VerifiedInstance",
    "View",
    "describe",
    "mismatches",
    "observe",
    "revoke",
]
