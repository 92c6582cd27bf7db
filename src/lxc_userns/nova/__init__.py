# SPDX-License-Identifier: Apache-2.0
"""The Nova compute driver, :class:`lxc_userns.nova.driver.LibvirtLXCDriver`.

nova.conf names it by the shim that the distribution ``lxc-userns-nova`` has::

    [DEFAULT]
    compute_driver = lxc_userns.LibvirtLXCDriver
"""
