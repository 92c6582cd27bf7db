# SPDX-License-Identifier: Apache-2.0
"""Filesystems: which can be idmapped, and whether there can be overlays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lxc_userns.exceptions import RootfsError
from lxc_userns.findings import Finding
from lxc_userns.host.check import (
    describe,
    failed,
    named,
    passed,
    split,
    warned,
)
from lxc_userns.host.paths import nearest
from lxc_userns.rootfs.views import probe
from lxc_userns.spec.strategy import Strategy

#: Name of the check, or its beginning if there is one for each mount.
NAME = "idmapped mounts"
_ELSEWHERE = (
    "keep root filesystems on another filesystem, or take the strategy chown "
    "for them"
)
_PLACE = (
    "set [lxc_userns] state_path to a directory on ext4, XFS or Btrfs, on "
    "Linux 5.19 or later, and run this as root; or have no overlays"
)


def check_overlays(
    state_path: Path,
    strategy: str,
    check_overlay: Callable[[str], bool] = probe.check_overlay,
) -> Finding:
    """Return whether an overlay can be made, by making one.

    :param state_path: below which the upper layers are.
    :param strategy: value of ``[lxc_userns] rootfs_strategy``.
    :param check_overlay: makes one, as :func:`probe.check_overlay`.
    """
    place = nearest(state_path)
    try:
        outcome: bool | Exception = check_overlay(str(place))
    except (RootfsError, OSError) as err:
        outcome = err
    return evaluate_overlays(place, outcome, strategy)


def evaluate_overlays(
    place: Path, outcome: bool | Exception, strategy: str
) -> Finding:
    """Return whether an overlay can be made.

    :param place: the directory that was tried.
    :param outcome: whether ACLs are kept, or why there is no overlay.
    :param strategy: value of ``[lxc_userns] rootfs_strategy``.
    """
    if isinstance(outcome, RootfsError):
        message, remedy = split(outcome.reason, _PLACE)
        message = f"none with an upper layer in {place}: {message}"
    elif isinstance(outcome, Exception):
        why = getattr(outcome, "strerror", None) or describe(outcome)
        message, remedy = f"not tried in {place}: {why}", _PLACE
    elif outcome:
        return passed(f"can be made with their upper layer in {place}")
    else:
        return warned(
            f"can be made with their upper layer in {place}, but this kernel "
            "spoils ACLs of files that are changed if the image is on XFS as "
            "well",
            "have images with ACLs on another filesystem",
        )
    if Strategy(strategy).traits.private_upper:
        return failed(
            f"{message}; [lxc_userns] rootfs_strategy is {strategy}", remedy
        )
    return warned(message, remedy)


def check_all(
    find: Callable[[], list[probe.Finding]] = probe.find_idmappable,
) -> list[Finding]:
    """Return whether root filesystems can be idmapped, by where they are.

    :param find: tries it, as :func:`probe.find_idmappable`.
    """
    try:
        found = find()
    except Exception as err:
        return [
            named(
                NAME,
                warned(
                    f"not tried without user namespaces: {describe(err)}",
                    "run this as root, and see the check of user namespaces",
                ),
            )
        ]
    return [named(f"{NAME} on {each.point}", evaluate(each)) for each in found]


def evaluate(finding: probe.Finding) -> Finding:
    """Return whether root filesystems on a filesystem can be idmapped.

    One that cannot is a warning: there are other strategies, and places.
    """
    if finding.reason is None:
        return passed(f"{finding.fs_type} can be idmapped")
    return warned(*split(finding.reason, _ELSEWHERE))
