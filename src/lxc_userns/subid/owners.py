# SPDX-License-Identifier: Apache-2.0
"""Owners of host IDs: users, groups, subordinate ranges."""

from __future__ import annotations

import grp
import logging
import pwd
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from lxc_userns.exceptions import PrerequisiteError
from lxc_userns.idmap import ID_LIMIT, Kind
from lxc_userns.idmap.idset import IdSet
from lxc_userns.linux.process import Process, Rows
from lxc_userns.subid import files
from lxc_userns.subid.files import MalformedLine, SubordinateRange
from lxc_userns.text import shorten

_LOG = logging.getLogger(__name__)

SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")
NSSWITCH = Path("/etc/nsswitch.conf")
_LONGEST = 60.0
_ALL = IdSet((range(ID_LIMIT),))
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, slots=True)
class IdOwner:
    """Somebody who holds IDs.

    :param name: a phrase, as ``user alice (1000)``.
    :param ids: what of the IDs in question, or around them.
    """

    name: str
    ids: range

    def __str__(self) -> str:
        return self.name


class HasIds(Protocol):
    """A lease, or what has been one."""

    def ids(self, kind: Kind) -> range:
        """Return the IDs of one kind."""


@dataclass(frozen=True, slots=True)
class IdOwnership:
    """The host IDs of one kind that somebody holds.

    :param kind: ``user`` or ``group``.
    :param names: the names behind single IDs.
    :param subordinates: the subordinate ranges.
    :param malformed: lines of the file which could not be read.
    :param source: where the ranges of the owner asked for come from: a file,
        or how another source was asked.
    :param owner_ids: user IDs, in decimal, of users that may be owners.
    :param present: the IDs that there are in the user namespace that this
        process runs in; all of them, unless that is nested.
    """

    kind: str
    names: Mapping[int, str]
    subordinates: tuple[SubordinateRange, ...]
    malformed: tuple[MalformedLine, ...] = ()
    source: str = ""
    owner_ids: Mapping[str, str] = field(default_factory=dict)
    present: IdSet = _ALL

    def canonical_owner(self, owner: str) -> str:
        """Return the same text for all names of an owner, and the number."""
        return self.owner_ids.get(owner, owner)

    def owned(self, owner: str) -> Iterator[range]:
        """Yield the subordinate ranges of an owner, by name or number."""
        identity = self.canonical_owner(owner)
        for held in self.subordinates:
            if self.canonical_owner(held.owner) == identity:
                yield held.ids

    def holders(
        self, ids: range | IdSet, owner: str = ""
    ) -> Iterator[IdOwner]:
        """Yield the owners of any of these IDs.

        :param ids: host IDs.
        :param owner: the owner whose own subordinate ranges do not count.
        """
        wanted = IdSet.of((ids,)) if isinstance(ids, range) else ids
        for number, name in sorted(self.names.items()):
            if number in wanted:
                single = range(number, number + 1)
                yield IdOwner(f"{self.kind} {name} ({number})", single)
        yield from self._subordinate_holders(
            wanted, self.canonical_owner(owner)
        )
        for absent in wanted - self.present:
            yield IdOwner(
                "others, for the user namespace that this runs in does not "
                f"have them ({absent.start}:{len(absent)})",
                absent,
            )

    def _subordinate_holders(
        self, wanted: IdSet, identity: str
    ) -> Iterator[IdOwner]:
        for line in self.malformed:
            if (
                line.ids
                and wanted.overlaps(line.ids)
                and self.canonical_owner(line.owner) != identity
            ):
                text = shorten(line.text)
                name = f"whoever line {line.line} means ({text!r})"
                yield IdOwner(name, line.ids)
        first, end = wanted.bounds
        for held in self.subordinates:
            # There can be a million, nearly all of them elsewhere.
            if held.start >= end or held.start + held.count <= first:
                continue
            if self.canonical_owner(held.owner) == identity:
                continue
            if wanted.overlaps(held.ids):
                yield IdOwner(
                    f"the subordinate {self.kind} IDs of {held.owner} "
                    f"({held.start}:{held.count})",
                    held.ids,
                )


def read_host_uids(owner: str = "", run: Run = subprocess.run) -> IdOwnership:
    """Return users (by NSS) and subordinate user IDs of this host.

    :param owner: whose subordinate IDs are asked for by
        :manpage:`getsubids(1)`, if ``/etc/nsswitch.conf`` names a source
        for ``subid`` other than the files. Those of others are not listed
        by such a source; what the files say of others counts in any case.
    :param run: runs a program, as :func:`subprocess.run`.
    :raises PrerequisiteError: if that source cannot be asked.
    """
    names = {each.pw_uid: each.pw_name for each in pwd.getpwall()}
    with Process("self") as this:
        present = _present(this.uid_map)
    return _read("user", names, present, SUBUID, (), owner, run)


def read_host_gids(owner: str = "", run: Run = subprocess.run) -> IdOwnership:
    """Return the same for groups and subordinate group IDs."""
    names = {each.gr_gid: each.gr_name for each in grp.getgrall()}
    with Process("self") as this:
        present = _present(this.gid_map)
    return _read("group", names, present, SUBGID, ("-g",), owner, run)


def read_text(path: Path) -> str:
    """Return the text of a file, empty if there is none.

    :raises PrerequisiteError: if it cannot be read.
    """
    try:
        # Not as text, for which a carriage return would end a line, too.
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as err:
        raise PrerequisiteError(f"{path}: {err.strerror}") from err


def _present(rows: Rows) -> IdSet:
    """Return the IDs that there are in a user namespace, as seen in it."""
    return IdSet.of(range(inside, inside + n) for inside, _, n in rows)


def _read(
    kind: str,
    names: Mapping[int, str],
    present: IdSet,
    path: Path,
    options: tuple[str, ...],
    owner: str,
    run: Run,
) -> IdOwnership:
    ranges, malformed = files.parse(read_text(path))
    ids = _owner_ids(owner)
    made = partial(
        IdOwnership,
        kind,
        names,
        malformed=malformed,
        owner_ids=ids,
        present=present,
    )
    service = files.parse_source(read_text(NSSWITCH))
    if service == "files" or not owner:
        return made(ranges, source=str(path))
    # Then the file does not count for the owner, as it does not for shadow.
    of_others = [
        held
        for held in ranges
        if ids.get(held.owner, held.owner) != ids.get(owner, owner)
    ]
    listed = _ask(("getsubids", *options, owner), owner, service, run)
    source = f"the source {service} of subordinate IDs"
    return made((*of_others, *listed), source=source)


def _owner_ids(owner: str) -> dict[str, str]:
    """Return the user IDs, in decimal, of all listed users and an owner.

    A directory service that lists no one is asked for the owner alone, and
    not for each user that has subordinate IDs.
    """
    found = [*pwd.getpwall()]
    with suppress(KeyError):
        found.append(pwd.getpwnam(owner))
    if owner.isdecimal():
        # The others are for more than there can be.
        with suppress(KeyError, OverflowError, ValueError):
            found.append(pwd.getpwuid(int(owner)))
    return {each.pw_name: str(each.pw_uid) for each in found}


def _ask(
    argv: tuple[str, ...], owner: str, service: str, run: Run
) -> Iterator[SubordinateRange]:
    """Yield the ranges that a source other than the files has for an owner."""
    why = f"{NSSWITCH} has the subordinate IDs come from {service!r}"
    try:
        done = run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_LONGEST,
            check=False,
        )
    except FileNotFoundError as err:
        raise PrerequisiteError(
            f"{why}, and getsubids, which asks it, is not installed "
            "(Debian package uidmap)"
        ) from err
    except subprocess.TimeoutExpired as err:
        raise PrerequisiteError(f"{why}, which does not answer") from err
    if done.stderr.strip():
        said = " ".join(done.stderr.split())
        _LOG.warning("%s, and getsubids says: %s", why, said)
    # It fails the same for an owner without ranges as for a source that is
    # out of order: either way there are none to lease.
    if done.returncode:
        return
    ranges, malformed = files.parse_listed(done.stdout)
    for line in malformed:
        said = shorten(line.text)
        raise PrerequisiteError(
            f"{why}, of which getsubids says {said!r}: {line.reason}"
        )
    for held in ranges:
        yield SubordinateRange(owner, held.start, held.count, held.line)
