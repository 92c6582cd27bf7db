# SPDX-License-Identifier: Apache-2.0

from lxc_userns.verification.cgroups import revoke as revoke
from lxc_userns.verification.compare import (
    VerifiedInstance as VerifiedInstance,
)
from lxc_userns.verification.compare import describe as describe
from lxc_userns.verification.compare import mismatches as mismatches
from lxc_userns.verification.expectation import Confinement as Confinement
from lxc_userns.verification.expectation import Expectation as Expectation
from lxc_userns.verification.expectation import View as View
from lxc_userns.verification.observed import Observed as Observed
from lxc_userns.verification.observed import observe as observe
