# SPDX-License-Identifier: Apache-2.0
"""Checks of this host: each thing is tried, not looked up by version."""

from lxc_userns.host.checklist import check_host

__all__ = ["check_host"]
