# SPDX-License-Identifier: Apache-2.0
"""Verification: what runs, compared with what was promised.

The evidence is the kernel's: nothing that the container says of itself
counts, and nothing in it is opened.

The names are loaded when they are first used.
"""

from lxc_userns import lazy

__getattr__, __dir__ = lazy.attach(__name__, __file__)
