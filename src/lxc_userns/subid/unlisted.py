# SPDX-License-Identifier: Apache-2.0
"""Users and groups that a directory service knows, and need not list.

SSSD lists none unless ``enumerate`` is on. So it is asked by number, for some
of the IDs in question, and by the ranges that such services give by default.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Iterator
from contextlib import suppress

from lxc_userns.exceptions import PoolExhaustedError
from lxc_userns.idmap import KINDS, Kind
from lxc_userns.idmap.ranges import overlap
from lxc_userns.subid import owners
from lxc_userns.subid.owners import HasIds, IdOwner

#: What SSSD gives to users and groups of a directory by default
#: (sssd-ldap(5), ldap_idmap_range_min and _max); a domain of FreeIPA has
#: 200000 IDs of the same.
_SLICE = 200_000
DIRECTORY_IDS = range(_SLICE, 2_000_200_000)
#: Subordinate IDs of FreeIPA's users: all from the 32nd bit on.
FREEIPA_SUBIDS = range(2**31, 2**31 + 32766 * 65536)
#: Of each slice, what is given first: by FreeIPA from its start on; by SSSD
#: the relative IDs of Active Directory, whose own begin at 500, and those of
#: users at 1000.
_GIVEN_FIRST = (0, 1, 500, 512, 513, 1000, 1104)
_SAMPLE = 16
_MOST_RANGES = 16

#: Sources of which all users are listed, or run with IDs that are seen.
_LISTED = frozenset(
    {"files", "compat", "db", "altfiles", "extrausers"}
    | {"systemd", "mymachines"}
)
_SERVICES = ("sss", "ldap", "winbind")
_SOURCES = re.compile(r"^(?:passwd|group):([^#\n]*)", re.MULTILINE)
_ACTION = re.compile(r"\[[^]]*\]")


def sources() -> set[str]:
    """Return where users and groups come from (:manpage:`nsswitch.conf(5)`).

    :raises PrerequisiteError: if that cannot be read.
    """
    text = owners.read_text(owners.NSSWITCH)
    lines = (match[1] for match in _SOURCES.finditer(text))
    return {name for line in lines for name in _ACTION.sub(" ", line).split()}


def can_be() -> bool:
    """Return whether there can be users or groups that are not listed."""
    return not sources() <= _LISTED


def find(kind: Kind, ids: range) -> list[IdOwner]:
    """Ask for users or groups by number, for a sample of IDs.

    :param kind: ``uid`` or ``gid``.
    :param ids: one ID or more. The first, the last, some in between and those
        that directory services give first are asked for.
    :returns: the first that is met, as holder of its ID; none is looked for
        after that.
    """
    for number in _sample(ids):
        with suppress(KeyError):
            if kind == "uid":
                name = f"user {pwd.getpwuid(number).pw_name}"
            else:
                name = f"group {grp.getgrgid(number).gr_name}"
            return [IdOwner(f"{name} ({number})", range(number, number + 1))]
    return []


class Asked:
    """Answers of directory services about ranges that are to be leased.

    :param instance: for which instance.

    Not while others wait: a directory service may be slow, or far away.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._free: set[tuple[Kind, range]] = set()
        self._is_needed = can_be()
        self._found = 0

    def cover(self, lease: HasIds) -> bool:
        """Return whether there is nothing to ask about a lease any more."""
        return not self._is_needed or self._free.issuperset(_ids(lease))

    def find_unlisted(self, lease: HasIds) -> list[tuple[Kind, IdOwner]]:
        """Ask who has IDs of a lease that is to be.

        :raises PoolExhaustedError: if each of many ranges was somebody's.
        """
        found: list[tuple[Kind, IdOwner]] = []
        for kind, ids in _ids(lease):
            holders = find(kind, ids)
            found += ((kind, holder) for holder in holders)
            if not holders:
                self._free.add((kind, ids))
        self._found += bool(found)
        if self._found > _MOST_RANGES:
            raise PoolExhaustedError(
                self._instance,
                f"in each of {self._found} ranges of the pool that no one "
                "listed has, there are users or groups of a directory "
                f"service, last {found[-1][1]}; give the pool other IDs",
            )
        return found


def advisories(name: str, ids: range) -> Iterator[str]:
    """Yield advice about ranges that directory services may give to users.

    :param name: what the IDs are called.
    :param ids: host IDs.
    :raises PrerequisiteError: if :manpage:`nsswitch.conf(5)` cannot be read.
    """
    found = sources()
    services = ", ".join(each for each in _SERVICES if each in found)
    if not services:
        return
    for theirs, whose in (
        (DIRECTORY_IDS, "SSSD and FreeIPA give to users"),
        (FREEIPA_SUBIDS, "FreeIPA gives to users as subordinate IDs"),
    ):
        if overlap(ids, theirs):
            yield (
                f"{name} meets {theirs.start}-{theirs.stop - 1}, which "
                f"{whose} by default, and {owners.NSSWITCH} names "
                f"{services}; take IDs of {DIRECTORY_IDS.stop}-"
                f"{FREEIPA_SUBIDS.start - 1}"
            )


def _ids(lease: HasIds) -> list[tuple[Kind, range]]:
    return [(kind, lease.ids(kind)) for kind in KINDS]


def _sample(ids: range) -> list[int]:
    """Return some of the IDs, ascending."""
    last = len(ids) - 1
    found = {ids[last * n // (_SAMPLE - 1)] for n in range(_SAMPLE)}
    first = ids.start - ids.start % _SLICE
    slices = range(first, ids.stop, _SLICE)
    for base in slices[:: -(-len(slices) // _SAMPLE)]:
        found |= {base + n for n in _GIVEN_FIRST if base + n in ids}
    return sorted(found)
