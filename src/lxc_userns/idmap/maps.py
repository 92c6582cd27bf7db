# SPDX-License-Identifier: Apache-2.0
"""ID maps: which host ID stands behind each guest ID.

The values here validate once, when they are made, and then only map. They
obey the kernel's rules for ``/proc/PID/uid_map``, as in
:manpage:`user_namespaces(7)`, and the stricter ones that make a map safe for
a whole container.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from lxc_userns.arguments import check_items, check_type, shown
from lxc_userns.exceptions import IdMapError
from lxc_userns.idmap.ranges import overlap

#: The two kinds of IDs: of users and of groups.
Kind = Literal["uid", "gid"]
KINDS: tuple[Kind, Kind] = ("uid", "gid")
#: One past the highest ID: 4294967295 is ``(uid_t) -1``, "no ID".
ID_LIMIT = 2**32 - 1
#: More entries than this are refused; Nova documents the same limit, and
#: kernels before 4.15 know no more.
MAX_ENTRIES = 5
#: Group that owns terminals; libvirt gives ``devpts`` its host ID.
TTY_GID = 5
#: The owner that stands for "nobody" in a container.
NOBODY_ID = 65534

_ENTRY = re.compile(r"(0|[1-9][0-9]*):(0|[1-9][0-9]*):(0|[1-9][0-9]*)")
_SYNTAX = (
    "expected guest:host:count, three decimal integers without sign, "
    "blanks or leading zeros"
)


@dataclass(frozen=True, slots=True, order=True)
class IdMapEntry:
    """Guest IDs ``guest..guest+count-1`` are host IDs ``host..``.

    :param guest: first guest ID, 0..4294967294.
    :param host: first host ID, 0..4294967294.
    :param count: number of IDs, 1 or more; neither range may pass
        4294967294, the highest ID (``(uid_t) -1`` is not an ID).
    :raises IdMapError: if a number is out of range.
    """

    guest: int
    host: int
    count: int

    def __post_init__(self) -> None:
        for number in (self.guest, self.host, self.count):
            if type(number) is not int or number < 0:
                raise IdMapError("syntax", self._shown, _SYNTAX)
        if self.count == 0:
            raise IdMapError("count", self._shown, "count is 0")
        for side, start in (("guest", self.guest), ("host", self.host)):
            if start + self.count > ID_LIMIT:
                raise IdMapError(
                    "limit",
                    self._shown,
                    f"{side} IDs end at {shown(start + self.count - 1)}, "
                    f"the highest ID is {ID_LIMIT - 1}",
                )

    @property
    def _shown(self) -> str:
        """Return what an error shows of it, whatever its numbers are."""
        return ":".join(map(shown, (self.guest, self.host, self.count)))

    @classmethod
    def parse(cls, text: str) -> IdMapEntry:
        """Read one ``guest:host:count``.

        :raises IdMapError: if the text is anything else.
        """
        check_type("IdMapEntry.parse", "text", text, str)
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise IdMapError("syntax", text, _SYNTAX)
        if max(map(len, match.groups())) > len(str(ID_LIMIT)):
            raise IdMapError(
                "limit", text, f"the highest ID is {ID_LIMIT - 1}"
            )
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.guest}:{self.host}:{self.count}"

    @property
    def guest_ids(self) -> range:
        """Return the guest IDs of this entry."""
        return range(self.guest, self.guest + self.count)

    @property
    def host_ids(self) -> range:
        """Return the host IDs of this entry."""
        return range(self.host, self.host + self.count)


@dataclass(frozen=True, slots=True)
class IdMap:
    """The ID map of one kind, for user or for group IDs.

    :param entries: 1 to 5 entries; neither guest nor host ranges overlap
        (adjacent ones are fine), guest ID 0 is mapped, host ID 0 is not.
    :raises IdMapError: if a rule is broken; the error names the entries.
    """

    entries: tuple[IdMapEntry, ...]

    def __post_init__(self) -> None:
        check_items("IdMap", "entries", self.entries, IdMapEntry)
        object.__setattr__(self, "entries", tuple(self.entries))
        for error in broken_rules(self.entries):
            raise error

    @classmethod
    def parse(cls, text: str | Sequence[str]) -> IdMap:
        """Read ``guest:host:count,...`` or a sequence of single entries.

        :raises IdMapError: for anything but 1 to 5 valid entries; a bad
            entry is never skipped.
        """
        items = text.split(",") if isinstance(text, str) else text
        check_items("IdMap.parse", "text", items, str)
        return cls(tuple(IdMapEntry.parse(item) for item in items))

    def __str__(self) -> str:
        return _join(self.entries)

    def __iter__(self) -> Iterator[IdMapEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_host(self, guest_id: int) -> int | None:
        """Return the host ID behind a guest ID, None if unmapped."""
        for entry in self.entries:
            if guest_id in entry.guest_ids:
                return entry.host + guest_id - entry.guest
        return None

    def to_guest(self, host_id: int) -> int | None:
        """Return the guest ID before a host ID, None if unmapped."""
        for entry in self.entries:
            if host_id in entry.host_ids:
                return entry.guest + host_id - entry.host
        return None


def broken_rules(entries: Sequence[IdMapEntry]) -> Iterator[IdMapError]:
    """Yield every rule of :class:`IdMap` that its entries would break.

    :param entries: entries that are good by themselves.
    """
    text = _join(entries)
    if not 1 <= len(entries) <= MAX_ENTRIES:
        yield IdMapError(
            "number",
            text,
            f"{len(entries)} entries, 1 to {MAX_ENTRIES} are allowed",
        )
    for one, other in combinations(entries, 2):
        if overlap(one.guest_ids, other.guest_ids):
            reason = f"guest IDs of {one} and {other} overlap"
            yield IdMapError("guest-overlap", text, reason)
        if overlap(one.host_ids, other.host_ids):
            reason = f"host IDs of {one} and {other} overlap"
            yield IdMapError("host-overlap", text, reason)
    # A container whose root is the host's root is what this package exists
    # to prevent; libvirt itself accepts such a map in silence.
    for entry in entries:
        if 0 in entry.host_ids:
            yield IdMapError("host-root", text, f"{entry} maps to host ID 0")
    if not any(0 in entry.guest_ids for entry in entries):
        yield IdMapError(
            "guest-root",
            text,
            "guest ID 0 is not mapped; libvirt cannot start a container "
            "without its root user",
        )


def broken_tty_rules(entries: Sequence[IdMapEntry]) -> Iterator[IdMapError]:
    """Yield every rule about guest group 5 that a group map would break.

    virLXCControllerLookupUsernsMap() misses the first ID of an entry, so that
    an entry which starts at 5 gives the container's terminals to the host's
    tty group, as does a map without 5 (libvirt 9.0.0).

    :param entries: the entries of a map for group IDs.
    """
    text = _join(entries)
    if not any(TTY_GID in entry.guest_ids for entry in entries):
        yield IdMapError(
            "tty-unmapped",
            text,
            "guest group 5 (tty) is not mapped; libvirt would give the "
            "container's terminals to the host's group 5",
        )
    for entry in entries:
        if entry.guest == TTY_GID:
            yield IdMapError(
                "tty-start",
                text,
                f"{entry} starts at guest group 5 (tty), which libvirt "
                "misreads; let an entry that starts lower cover it",
            )


def _join(entries: Sequence[IdMapEntry]) -> str:
    return ",".join(map(str, entries))


@dataclass(frozen=True, slots=True)
class IdMaps:
    """The ID maps of a container: one for user IDs, one for group IDs.

    :param uid: map of user IDs.
    :param gid: map of group IDs; guest group 5 (tty) is mapped and no entry
        starts at it.
    :raises IdMapError: if the group map breaks the rule about group 5.
    """

    uid: IdMap
    gid: IdMap

    def __post_init__(self) -> None:
        for name in ("uid", "gid"):
            check_type("IdMaps", name, getattr(self, name), IdMap)
        for error in broken_tty_rules(self.gid.entries):
            raise error

    def __str__(self) -> str:
        return f"{self.uid} {self.gid}"

    @classmethod
    def of_rows(
        cls,
        uid: Iterable[tuple[int, int, int]],
        gid: Iterable[tuple[int, int, int]],
    ) -> IdMaps:
        """Make them of rows as the kernel has them, for a container.

        :raises IdMapError: if they break a rule of ours.
        """
        return cls(
            IdMap(tuple(IdMapEntry(*row) for row in uid)),
            IdMap(tuple(IdMapEntry(*row) for row in gid)),
        )

    @property
    def size(self) -> int | None:
        """Number of IDs of either kind; None if there are not as many."""
        counts = [
            sum(entry.count for entry in id_map)
            for id_map in (self.uid, self.gid)
        ]
        return counts[0] if counts[0] == counts[1] else None

    @property
    def root(self) -> tuple[int, int]:
        """Return the host's user and group ID of the container's root."""
        # No ID map can be made without an entry for guest ID 0.
        uid, gid = (
            {entry.guest: entry.host for entry in id_map}[0]
            for id_map in (self.uid, self.gid)
        )
        return uid, gid

    @property
    def entries(self) -> Iterator[tuple[Kind, IdMapEntry]]:
        """Return all entries, each with its kind."""
        for entry in self.uid:
            yield "uid", entry
        for entry in self.gid:
            yield "gid", entry

    def shift_uid(self, uid: int) -> int | None:
        """Return the host user ID of a guest user ID, None if unmapped."""
        return self.uid.to_host(uid)

    def shift_gid(self, gid: int) -> int | None:
        """Return the host group ID of a guest group ID, None if unmapped."""
        return self.gid.to_host(gid)

    def unshift_uid(self, uid: int) -> int | None:
        """Return the guest user ID of a host user ID, None if unmapped."""
        return self.uid.to_guest(uid)

    def unshift_gid(self, gid: int) -> int | None:
        """Return the guest group ID of a host group ID, None if unmapped."""
        return self.gid.to_guest(gid)


#: IDs that systemd gives to containers of its own (systemd UIDS-GIDS).
SYSTEMD_CONTAINERS = range(524288, 1879048192)


#: What a container expects.
CONTAINER_IDS = 65536
#: What is said of fewer.
FEW_IDS = (
    "fewer than 65536 IDs: nobody (65534) and the users that systemd makes up "
    "are likely to be unmapped"
)


def advisories(id_map: IdMap) -> Iterable[str]:
    """Yield advice about an ID map that is allowed, but seldom wise.

    :returns: one sentence per finding, none for a good map.
    """
    if sum(entry.count for entry in id_map) < CONTAINER_IDS:
        yield FEW_IDS
    for entry in id_map:
        yield from host_advisories(str(entry), entry.host_ids)


def host_advisories(name: str, ids: range) -> Iterator[str]:
    """Yield advice about host IDs that are seldom wise for containers.

    :param name: what they are called.
    """
    if ids.start < 65536:
        yield (
            f"{name} uses host IDs below 65536, where the host's own users "
            "and services live"
        )
    if overlap(ids, SYSTEMD_CONTAINERS):
        yield (
            f"{name} lies in 524288-1879048191, which systemd hands out to "
            "its own containers"
        )
    if ids.stop > 2**31:
        yield (
            f"{name} uses host IDs above 2147483647, which some old software "
            "takes for negative numbers"
        )
