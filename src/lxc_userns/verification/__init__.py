# SPDX-License-Identifier: Apache-2.0
"""What runs, compared with what was promised.

The evidence is the kernel's: nothing that the container says of itself
counts, and nothing in it is opened.
"""

from lxc_userns.verification.control import take_back
from lxc_userns.verification.evidence import Evidence, gather
from lxc_userns.verification.judgement import (
    VerifiedInstance,
    describe,
    mismatches,
)
from lxc_userns.verification.promise import (
    Confinement,
    Promise,
    View,
)

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
