# SPDX-License-Identifier: Apache-2.0
"""``state_path`` and ``run_path``: where things of containers are."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from lxc_userns.host.check import Result, failed, passed

_ATTRIBUTE = "trusted.lxc_userns.probe"


def nearest(path: Path) -> Path:
    """The path, or of its parents the first that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def check_state_path(path: Path) -> Result:
    """Whether what is noted about containers can be kept there."""
    place = nearest(path)
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            os.setxattr(stream.fileno(), _ATTRIBUTE, b"1")
    except OSError as err:
        return judge_state_path(place, err.strerror or str(err))
    return judge_state_path(place, None)


def judge_state_path(place: Path, error: str | None) -> Result:
    """Whether what is noted about containers can be kept there.

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


def check_run_path(path: Path) -> Result:
    """Whether containers can reach their views."""
    place = nearest(path).resolve()
    closed = (
        each
        for each in (place, *place.parents)
        if not each.stat().st_mode & stat.S_IXOTH
    )
    return judge_run_path(place, next(closed, None))


def judge_run_path(place: Path, closed: Path | None) -> Result:
    """Whether containers can reach their views.

    :param place: where views are.
    :param closed: a directory on the way that not everybody can pass
        through, None if there is none.
    """
    if closed is None:
        return passed(f"users of containers can pass through {place}")
    return failed(
        f"users of containers cannot pass through {closed}",
        f"chmod o+x {closed}, or set [lxc_userns] run_path to a path of which "
        "all directories have that mode",
    )
