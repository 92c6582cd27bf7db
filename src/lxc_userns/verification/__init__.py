# SPDX-License-Identifier: Apache-2.0
"""What runs, compared with what was promised.

The evidence is the kernel's: nothing that the container says of itself
counts, and nothing in it is opened.
"""

from lxc_userns.verification.cgroups import take_back
from lxc_userns.verification.compare import (
    VerifiedInstance,
    describe,
    mismatches,
)
from lxc_userns.verification.expectation import Confinement, Promise, View
from lxc_userns.verification.observed import Evidence, gather

__all__ = [
    "Confinement",
    "Evidence",
    "Promise",
    "VerifiedInstance",
    "View",
    "describe",
    "gather",
    "mismatches",
    "take_back",
]
