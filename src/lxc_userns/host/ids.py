# SPDX-License-Identifier: Apache-2.0
"""Subordinate IDs, and the pool that is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lxc_userns.findings import Finding
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.idmap import SYSTEMD_CONTAINERS
from lxc_userns.idmap.ranges import overlap
from lxc_userns.leases.allocation import capacity
from lxc_userns.leases.pool import Pools, read_pools
from lxc_userns.subid import files, owners, unlisted

LOGIN_DEFS = Path("/etc/login.defs")
#: What shadow takes if that file is silent (login.defs(5)).
_SHADOW_RANGE = (100000, 600100000)
_NAMES = {"user": "UID", "group": "GID"}


def check_users() -> Finding:
    """Return whether the subordinate user ID ranges are in order."""
    path = owners.SUBUID
    return evaluate(owners.read_host_uids(), path, path.exists())


def check_groups() -> Finding:
    """Return whether the subordinate group ID ranges are in order."""
    path = owners.SUBGID
    return evaluate(owners.read_host_gids(), path, path.exists())


def evaluate(ids: owners.IdOwnership, path: Path, present: bool) -> Finding:
    """Return whether subordinate ID ranges are in order.

    :param ids: these.
    :param path: the file that they are from.
    :param present: whether that is there. Without a pool it need not be.
    """
    if not present:
        return passed(f"none, for there is no {path}")
    malformed = [
        f"line {line.line} is malformed: {line.reason}"
        for line in ids.malformed
    ]
    overlaps = [
        f"{one.owner} (line {one.line}) and {other.owner} (line "
        f"{other.line}) overlap"
        for one, other in files.find_overlaps(
            ids.subordinates, ids.canonical_owner
        )
    ]
    remedies = []
    if malformed:
        remedies.append(f"correct or remove these lines of {path}")
    if overlaps:
        remedies.append(f"give each owner a range of its own in {path}")
    if remedies:
        return warned("; ".join(malformed + overlaps), "; ".join(remedies))
    number = len(ids.subordinates)
    return passed(f"{number} ranges in {path}, none overlaps another")


def check_login_defs() -> Finding:
    """Return whether shadow gives new users IDs that systemd uses."""
    try:
        text = LOGIN_DEFS.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    return evaluate_login_defs(text)


def evaluate_login_defs(text: str) -> Finding:
    """Return whether shadow gives new users IDs that systemd uses.

    :param text: text of :manpage:`login.defs(5)`.
    """
    given = {kind: _range(text, name) for kind, name in _NAMES.items()}
    shown = ", ".join(
        f"{kind} IDs of {ids.start}-{ids.stop - 1}"
        for kind, ids in given.items()
    )
    message = f"{LOGIN_DEFS} gives new users subordinate {shown}"
    theirs = SYSTEMD_CONTAINERS
    names = [
        name for kind, name in _NAMES.items() if overlap(given[kind], theirs)
    ]
    if not names:
        return passed(message)
    options = " and ".join(f"SUB_{name}_MAX" for name in names)
    return warned(
        f"{message}; systemd gives some of these to containers "
        f"({theirs.start}-{theirs.stop - 1})",
        f"set {options} to {theirs.start - 1} in {LOGIN_DEFS}, unless "
        "systemd-nspawn and systemd-nsresourced have no containers here",
    )


def _range(text: str, name: str) -> range:
    first, last = (
        int(match[1]) if (match := _setting(text, option)) else default
        for option, default in zip(
            (f"SUB_{name}_MIN", f"SUB_{name}_MAX"), _SHADOW_RANGE, strict=True
        )
    )
    return range(first, last + 1)


def _setting(text: str, name: str) -> re.Match[str] | None:
    return re.search(rf"^\s*{name}\s+(\d+)\s*$", text, re.MULTILINE)


def check_pool(owner: str, size: int) -> Finding:
    """Return whether the pool has room.

    :param owner: value of ``[lxc_userns] subid_owner``.
    :param size: value of ``range_size``.
    """
    if not owner:
        return evaluate_pool(None, size)
    pools = read_pools(owner)
    return evaluate_pool(pools, size, tuple(_find_advisories(pools)))


def _find_advisories(pools: Pools) -> Iterator[str]:
    for _, pool in pools:
        for ids in pool.ids:
            shown = f"the {pool.kind} range {ids.start}:{len(ids)}"
            yield from unlisted.advisories(shown, ids)
        if pool.absent:
            yield pool.describe_absent()


def evaluate_pool(
    pools: Pools | None, size: int, advisories: Sequence[str] = ()
) -> Finding:
    """Return whether a pool has room, and is no one else's.

    :param pools: None if none is configured.
    :param size: number of IDs of a lease.
    :param advisories: what is seldom wise about its IDs.
    """
    if pools is None:
        return passed("none: [lxc_userns] subid_owner is empty")
    shortages = pools.shortages(size)
    if shortages:
        reasons, remedies = zip(*shortages, strict=True)
        return failed("; ".join(reasons), "; ".join(remedies))
    room = min(capacity(pool.ids, pool.free, size) for _, pool in pools)
    message = (
        f"the subordinate IDs of {pools.owner} give {room} leases of {size}"
    )
    if not advisories:
        return passed(message)
    remedy = "give it IDs that no one else may be given"
    return warned("; ".join((message, *advisories)), remedy)
