# SPDX-License-Identifier: Apache-2.0
"""Limits of what a container uses of the host, in groups that are root's."""

from lxc_userns.resources.enforce import differences, enforce

__all__ = ["differences", "enforce"]
