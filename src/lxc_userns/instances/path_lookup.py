# SPDX-License-Identifier: Apache-2.0
"""Lookup of a path of the host: only root may replace a step of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.linux import safe_path
from lxc_userns.linux.fd import owned


@contextmanager
def opened(path: str, trust: safe_path.Trust) -> Iterator[int]:
    """Open what may be a root filesystem with ``O_PATH``.

    :param trust: rules for the directories above it.
    :raises RootfsError: if others could replace it.
    """
    with translated(RootfsError, path):
        fd = safe_path.open_fd(path, trust)
    with owned(fd):
        yield fd
