# SPDX-License-Identifier: Apache-2.0
"""The host name (:manpage:`uts_namespaces(7)`)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def preserve() -> Iterator[None]:
    """Restore the host name afterwards."""
    before = socket.gethostname()
    try:
        yield
    finally:
        if socket.gethostname() != before:
            socket.sethostname(before)
