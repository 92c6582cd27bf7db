# SPDX-License-Identifier: Apache-2.0
"""Threads or green threads: how Nova does several things at once."""

import os

from tests.nova.release import RELEASE


def choose() -> None:
    """Choose what this release's nova-compute has.

    To be called before any module of Nova is loaded.
    """
    threading = str(RELEASE >= 34).lower()
    os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = threading
    # It patches, or sees to it that no one can; until 31 when it is imported.
    from nova import monkey_patch

    if RELEASE >= 32:
        monkey_patch.patch()
