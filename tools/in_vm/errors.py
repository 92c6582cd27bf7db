# SPDX-License-Identifier: Apache-2.0
"""Error of ``tools/in-vm``."""


class InVmError(Exception):
    """The command cannot be run in a virtual machine; the text says why."""
