# SPDX-License-Identifier: Apache-2.0
"""All rules of an audit."""

from __future__ import annotations

from typing import Final

from lxc_userns.audit import (
    filesystems,
    host_rules,
    id_maps,
    namespaces,
    privileges,
)
from lxc_userns.audit.finding import Rule

#: In the order of the documentation.
RULES: Final[tuple[Rule, ...]] = (
    *id_maps.RULES,
    *namespaces.RULES,
    *filesystems.RULES,
    *privileges.RULES,
    *host_rules.RULES,
)
