# SPDX-License-Identifier: Apache-2.0
"""Threads or green threads: how Nova does several things at once."""

import os

from tests.nova.release import RELEASE


def choose(backend: str | None) -> None:
    """Choose ``threading``, ``eventlet``, or what nova-compute has.

    To be called before any module of Nova is loaded.
    """
    if backend is None:
        backend = "threading" if RELEASE >= 34 else "eventlet"
    os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = str(
        backend == "threading"
    ).lower()
    # It patches, or sees to it that nobody can; until 31 when it is imported.
    from nova import monkey_patch

    if RELEASE >= 32:
        monkey_patch.patch()
