# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of tar while it extracts, sorted.

Names of members are in it, which can be made to look like anything. GNU tar
escapes them, colons and line breaks too, in what is passed over here. Where it
does not, for extended attributes, its line begins with that, and whatever the
name adds to it the beginning is not passed over.
"""

from __future__ import annotations

import os
import re
import sys

from lxc_userns.rootfs.archive.tar_listing import unescape
from lxc_userns.text import printable

#: Bytes of a line that are looked at, and characters that are passed on.
_LONGEST_LINE = 1 << 16
_LONGEST_SHOWN = 300
#: Distinct owners, and names of device nodes, that are remembered.
_MOST_OWNERS = 100
_MOST_NAMES = 1000
#: Bytes of a block of an archive.
_BLOCK = 512

#: Beginning of a line about a member, whose name is escaped.
MEMBER = rb"tar: ((?:[^:\\]|\\.)+): "
_DEVICE = re.compile(MEMBER + rb"Cannot mknod: Operation not permitted")
_LINK = re.compile(
    MEMBER
    + rb"Cannot hard link to '((?:[^'\\]|\\.)+)': No such file or directory"
)
_OWNER = re.compile(
    MEMBER + rb"Cannot change ownership to uid ([0-9]{1,20}), "
    rb"gid ([0-9]{1,20}): "
    rb"Invalid argument"
)
# An archive that ends by one block of zeros rather than two is whole.
_LONE = re.compile(rb"tar: A lone zero block at ([0-9]{1,18})")
# It makes a name relative and goes on; and says at the end that there was
# something.
_HARMLESS = re.compile(
    rb"tar: (Removing leading .+ from (member names|hard link targets)"
    rb"|Substituting .+ for empty (member name|hard link target)"
    rb"|Exiting with failure status due to previous errors)"
)
# Each has its own words for a limit of its address space.
_NO_MEMORY = re.compile(
    rb"(tar|gzip): memory exhausted|gzip: .*out of memory"
    rb"|xz: .*(Cannot allocate memory|Memory usage limit.*)"
    rb"|(zstd: |/\*stdin\*\\ ?: ).*(Allocation error|not enough memory).*"
    rb"|.*error while loading shared libraries: .*"
)
# What there is to add, to the end of a line.
_HINTS = (
    (
        re.compile(
            rb".*(POSIX ACLs|'system\.posix_acl_.*'|'security\.capability')"
            rb".*: Invalid argument"
        ),
        "do the ID maps cover the IDs in it?",
    ),
    (
        # What the last lookup of a name has left: releases differ.
        re.compile(
            rb".*: Cannot acl_from_text: (Invalid argument"
            rb"|No such file or directory|Cannot allocate memory)"
        ),
        "does it name a user or group that this host does not have? tar "
        "--xattrs --create keeps their IDs",
    ),
    (
        re.compile(rb".*: Wrote only [0-9]+ of [0-9]+ bytes"),
        "is the filesystem full?",
    ),
)


class Diagnostics:
    """Diagnostics of tar and of what compresses or decompresses for it."""

    def __init__(self) -> None:
        #: The first thing that went wrong, fit for a message.
        self.first: str | None = None
        #: Whether that has no end, as of a program killed in the middle.
        self.is_cut = False
        #: Whether that was a lack of memory.
        self.lacks_memory = False
        self._line = b""

    def feed(self, said: bytes) -> None:
        """Read on.

        :param said: what came, cut anywhere; nothing at the end.
        """
        *lines, rest = (self._line + said).split(b"\n")
        self._line = rest[:_LONGEST_LINE]
        for line in lines:
            self._sort(line)
        if not said and self.first is None:
            self._sort(rest)
            self.is_cut = self.first is not None

    def _sort(self, line: bytes) -> None:
        """Take a line for what it is."""
        if line and self.first is None:
            self.first = _show(line)
            self.lacks_memory = bool(_NO_MEMORY.fullmatch(line))


class TarDiagnostics(Diagnostics):
    """Diagnostics of an extraction."""

    def __init__(self) -> None:
        super().__init__()
        #: Device nodes that it could not make.
        self.devices = 0
        #: Owners that it could not give, as pairs of user and group ID.
        self.owners: set[tuple[int, int]] = set()
        #: Up to which byte it may go if a single block of zeros ends it.
        self.lone_end = sys.maxsize
        self._names: set[bytes] = set()

    def _sort(self, line: bytes) -> None:
        if _HARMLESS.fullmatch(line):
            return
        if device := _DEVICE.fullmatch(line):
            self._leave_out(device[1])
        elif (link := _LINK.fullmatch(line)) and _name(link[2]) in self._names:
            self._leave_out(link[1])
        elif lone := _LONE.fullmatch(line):
            self.lone_end = min(self.lone_end, int(lone[1]) * _BLOCK)
        elif owner := _OWNER.fullmatch(line):
            if len(self.owners) < _MOST_OWNERS:
                self.owners.add((int(owner[2]), int(owner[3])))
        else:
            super()._sort(line)

    def _leave_out(self, member: bytes) -> None:
        self.devices += 1
        if len(self._names) < _MOST_NAMES:
            self._names.add(_name(member))


def _name(escaped: bytes) -> bytes:
    """Return a name as it is in the archive, without the leading ``./``."""
    return unescape(escaped).removeprefix(b"./")


def _show(line: bytes) -> str:
    text = printable(os.fsdecode(line).strip())
    if len(text) > _LONGEST_SHOWN:
        # A name is in the middle, and the reason at the end.
        half = _LONGEST_SHOWN // 2
        text = f"{text[:half]}...{text[-half:]}"
    hints = (hint for pattern, hint in _HINTS if pattern.fullmatch(line))
    return " ".join((text, *(f"({hint})" for hint in hints)))
