# SPDX-License-Identifier: Apache-2.0
"""Nothing is done to a process that was meant for a thread of it."""

import threading
from collections.abc import Callable
from typing import cast

import pytest

from lxc_userns.linux import mount_namespaces, namespaces
from lxc_userns.linux.process import Process


class GreenThread:
    """Green thread like eventlet's: a function call, at another time."""

    def __init__(self, target: Callable[[], None]) -> None:
        self.start = target

    def join(self) -> None:
        """Nothing is left to be done."""


def test_whose_threads_these_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert namespaces.has_native_threads()
    monkeypatch.setattr(threading, "Thread", GreenThread)
    assert not namespaces.has_native_threads()
    # Not even opened, for the process itself would be there.
    assert mount_namespaces.read(cast(Process, None), 10) == []
