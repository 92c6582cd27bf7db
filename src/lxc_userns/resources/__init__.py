# SPDX-License-Identifier: Apache-2.0
"""Limits of what a container uses of the host, in groups that are root's.

The names are loaded when they are first used.
"""

from lxc_userns import lazy

__getattr__, __dir__ = lazy.attach(__name__, __file__)
