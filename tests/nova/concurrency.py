# SPDX-License-Identifier: Apache-2.0
"""Threads or green threads: how Nova does several things at once."""

import importlib.metadata
import os


def choose(backend: str | None) -> None:
    """Choose ``threading``, ``eventlet``, or what nova-compute has.

    To be called before any module of Nova is loaded.
    """
    if backend is None:
        release = int(importlib.metadata.version("nova").split(".")[0])
        backend = "threading" if release >= 34 else "eventlet"
    os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = str(
        backend == "threading"
    ).lower()
    # Nova's tests patch, or see to it that nobody can.
    import nova.tests.functional  # noqa: F401
