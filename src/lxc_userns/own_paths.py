# SPDX-License-Identifier: Apache-2.0
"""Directories of our own: ``state_path`` and ``run_path``.

Looked at before the first change of a start, by ``config check`` and by
``host check``; nothing is made of what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from lxc_userns import exceptions
from lxc_userns.exceptions import ConfigError
from lxc_userns.linux import directory

#: Mode when they are made, and the most that they may allow. Users of
#: containers pass through run_path.
STATE_MODE: Final = 0o700
RUN_MODE: Final = 0o711


def check_state_path(path: str) -> None:
    """Check that ``state_path`` is, or would be made, ours alone.

    :raises ConfigError: if others own it, may enter it, or could replace it.
    """
    with translated("state_path", path):
        directory.check_place(path, STATE_MODE)


def check_run_path(path: str) -> None:
    """Check that ``run_path`` is, or would be made, ours and passable.

    :raises ConfigError: if others own it, may list it, could replace it, or
        cannot pass through it.
    """
    with translated("run_path", path):
        directory.check_place(path, RUN_MODE)
        directory.check_passable(path)


#: The checks, by name of the option.
CHECKS: Final[dict[str, Callable[[str], None]]] = {
    "state_path": check_state_path,
    "run_path": check_run_path,
}


@contextmanager
def translated(name: str, path: str) -> Iterator[None]:
    """Raise a system call's error as one of the option that names a path.

    :param name: ``state_path`` or ``run_path``.
    :raises ConfigError: in place of any OSError.
    """
    with exceptions.translated(ConfigError, f"[lxc_userns] {name}", path):
        try:
            yield
        except PermissionError as err:
            # Of the kernel, which gives no remedy.
            if err.errno is None or os.geteuid() == 0:
                raise
            reason = f"{err.strerror}; run this as root"
            raise PermissionError(reason) from err
