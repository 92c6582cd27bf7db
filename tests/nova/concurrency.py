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
    # Nova's tests patch, or see to it that nobody can.
    import nova.tests.functional  # noqa: F401
