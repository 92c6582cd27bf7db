# SPDX-License-Identifier: Apache-2.0
"""Hard links that a shift changes elsewhere, or breaks: said, or refused."""

from __future__ import annotations

import logging

from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import mounts
from lxc_userns.rootfs.shifting.report import ShiftReport
from lxc_userns.rootfs.shifting.tree import Tree

_log = logging.getLogger(__name__)


def are_split(tree: Tree) -> bool:
    """Return whether a shift of a file takes it from its other names."""
    found = mounts.find_mount(tree.given)
    return found is not None and mounts.splits_links(found)


def warn(tree: Tree, report: ShiftReport) -> None:
    """Log what a shift did, or would do, to hard links."""
    if report.split_links:
        _log.warning("%s: %s", tree.path, _describe_split(report))
    if report.linked_outside:
        _log.warning(
            "%s: %s, where their owners change too%s",
            tree.path,
            report.linked,
            f": {report.linked_paths[0]}" if report.linked_paths else "",
        )


def check_strict(tree: Tree, report: ShiftReport) -> None:
    """Check that a shift would do nothing to other hard links.

    :raises RootfsError: if it would.
    """
    if report.linked_outside:
        raise RootfsError(
            tree.path,
            f"{report.linked}, where their owners would change too: "
            f"{', '.join(report.linked_paths)}; give the tree copies of its "
            "own, or leave out strict",
        )
    if report.split_links:
        raise RootfsError(
            tree.path,
            f"{_describe_split(report)}; mount that with index=on, shift a "
            "copy of the tree, or leave out strict",
        )


def _describe_split(report: ShiftReport) -> str:
    number = report.split_links
    return (
        f"{number} {'name' if number == 1 else 'names'} (hard links) of files "
        "with several become files of their own, as it is on an overlay "
        "without an index"
    )
