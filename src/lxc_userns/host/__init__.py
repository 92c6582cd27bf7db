# SPDX-License-Identifier: Apache-2.0
"""Checks of this host: each thing is tried, not looked up by version."""

from lxc_userns.host.check import Check, Result, Status
from lxc_userns.host.checklist import check_host

__all__ = ["Check", "Result", "Status", "check_host"]
