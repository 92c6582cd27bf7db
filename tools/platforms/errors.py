# SPDX-License-Identifier: Apache-2.0
"""Error of ``tools/in-vm`` and ``tools/in-release``."""


class PlatformError(Exception):
    """The command cannot be run on the platform; the text says why."""
