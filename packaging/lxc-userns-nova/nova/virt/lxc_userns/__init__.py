# SPDX-License-Identifier: Apache-2.0
"""``compute_driver = lxc_userns.LibvirtLXCDriver``."""

from lxc_userns.nova.driver import LibvirtLXCDriver

__all__ = ["LibvirtLXCDriver"]
