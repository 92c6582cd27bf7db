# SPDX-License-Identifier: Apache-2.0
"""Directories of our own: ``state_path`` and ``run_path``.

Looked at before the first change of a start, by ``config check`` and by
``host check``; nothing is made of what is missing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lxc_userns.exceptions import ConfigError, reason_of
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


#: What to do about an error of the kernel, by its number.
REMEDIES: Final = {
    errno.ENOTDIR: "move it away, or take another path",
    errno.EROFS: "mount it for writing, or take another path",
    errno.ENOSPC: "make room there, for files as well as for bytes",
    errno.EDQUOT: "raise the quota that root has there",
}

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
    try:
        yield
    except OSError as err:
        reason = explain(err, path)
        raise ConfigError(f"[lxc_userns] {name}", path, reason) from err


def explain(err: OSError, path: str) -> str:
    """Return what is wrong with a directory of our own, and what to do.

    :param err: of the kernel, which gives no remedy, or of ours.
    :param path: the directory.
    """
    reason = reason_of(err)
    if err.errno == errno.ENOTDIR:
        reason = f"{_find_file(err, path)} is not a directory"
    remedy = REMEDIES.get(err.errno or 0)
    if isinstance(err, PermissionError) and err.errno and os.geteuid():
        remedy = "run this as root"
    return f"{reason}; {remedy}" if remedy else reason


def _find_file(err: OSError, path: str) -> str:
    """Return what is there in place of a directory."""
    for each in (Path(path), *Path(path).parents):
        if each.exists() and not each.is_dir():
            return str(each)
    return os.path.join(path, os.fsdecode(err.filename or ""))
