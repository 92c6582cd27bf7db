# SPDX-License-Identifier: Apache-2.0
"""The command line: what it says, and its exit codes."""

from lxc_userns import lazy

# oslo.config has types of options for addresses and URLs by these, which are
# half of what it takes to load; no option of ours is of one.
lazy.defer("netaddr", "rfc3986")
