# SPDX-License-Identifier: Apache-2.0
"""``state_path`` and ``run_path``: where things of containers are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from lxc_userns import own_paths
from lxc_userns.exceptions import ConfigError, reason_of
from lxc_userns.findings import Finding
from lxc_userns.host.check import failed, passed, split

_ATTRIBUTE = "trusted.lxc_userns.probe"


def nearest(path: Path) -> Path:
    """Return the path, or of its parents the first that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def check_state_path(
    path: Path, set_attribute: Callable[[int, str, bytes], None] = os.setxattr
) -> Finding:
    """Return whether what is noted about containers can be kept there.

    :param path: value of ``[lxc_userns] state_path``.
    :param set_attribute: sets an extended attribute, as :func:`os.setxattr`.
    """
    refused = _refused(own_paths.check_state_path, path)
    if refused is not None:
        return refused
    place = nearest(path)
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            set_attribute(stream.fileno(), _ATTRIBUTE, b"1")
    except OSError as err:
        return evaluate_state_path(place, reason_of(err))
    return evaluate_state_path(place, None)


def evaluate_state_path(place: Path, error: str | None) -> Finding:
    """Return whether what is noted about containers can be kept there.

    :param place: the directory that was tried.
    :param error: why no file of ours can be made in it, None if it can.
    """
    if error is None:
        return passed(f"{place} keeps trusted.* extended attributes")
    return failed(
        f"no file with trusted.* extended attributes can be made in {place}: "
        f"{error}",
        "run this as root, with [lxc_userns] state_path on a writable "
        "filesystem that keeps them: ext4, XFS, Btrfs",
    )


def check_run_path(path: Path) -> Finding:
    """Return whether containers can reach their views, and no one else."""
    refused = _refused(own_paths.check_run_path, path)
    if refused is not None:
        return refused
    place = nearest(path).resolve()
    return passed(f"users of containers can pass through {place}")


def _refused(check: Callable[[str], None], path: Path) -> Finding | None:
    """Return the result if a start would be refused for this path."""
    try:
        check(str(path))
    except ConfigError as err:
        otherwise = f"set {err.option} to another directory"
        return failed(*split(err.reason, otherwise))
    return None
