# SPDX-License-Identifier: Apache-2.0
"""Leases: which instance holds which range of host IDs.

An SQLite database below ``state_path``, opened anew for each use, so that
there is no daemon and nothing to keep in step. One transaction is one step:
another process sees all of it or nothing, and so does who looks after a crash
or a power loss. That two leases share no ID is a constraint of the database.

The names are loaded when they are first used.
"""

from lxc_userns import lazy

__getattr__, __dir__ = lazy.attach(__name__, __file__)
