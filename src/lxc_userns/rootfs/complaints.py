# SPDX-License-Identifier: Apache-2.0
"""What tar says while it extracts, sorted.

Names of members are in it, which can be made to look like anything. GNU tar
escapes them, line breaks too, in what is matched here; what it says is at the
end of its line. Where it does not, for extended attributes, the line begins
with that, and is not one that is passed over.
"""

from __future__ import annotations

import re

from lxc_userns.rootfs.tree import printable

#: Bytes of a line that are looked at, and characters that are passed on.
_LONGEST_LINE = 1 << 16
_LONGEST_SHOWN = 300
#: Distinct IDs that are remembered.
_MOST_IDS = 100

_DEVICE = re.compile(rb"tar: .+: Cannot mknod: Operation not permitted")
_OWNER = re.compile(
    rb"tar: .+: Cannot change ownership to uid ([0-9]+), gid ([0-9]+): "
    rb"Invalid argument"
)
# It makes a name relative and goes on; and says at the end that there was
# something.
_HARMLESS = re.compile(
    rb"tar: (Removing leading .+ from (member names|hard link targets)"
    rb"|Substituting .+ for empty (member name|hard link target)"
    rb"|Exiting with failure status due to previous errors)"
)


class Complaints:
    """What tar, and what decompresses for it, has to say."""

    def __init__(self) -> None:
        #: Device nodes that it could not make.
        self.devices = 0
        #: Owners that it could not give, as pairs of user and group ID.
        self.owners: set[tuple[int, int]] = set()
        #: The first thing that went wrong otherwise, fit for a message.
        self.first: str | None = None
        self._line = b""

    def feed(self, said: bytes) -> None:
        """Read on.

        :param said: what came, cut anywhere; nothing at the end.
        """
        *lines, rest = (self._line + said).split(b"\n")
        self._line = rest[:_LONGEST_LINE]
        if not said:
            lines = [rest]
        for line in lines:
            self._sort(line)

    def _sort(self, line: bytes) -> None:
        if not line or _HARMLESS.fullmatch(line):
            return
        if _DEVICE.fullmatch(line):
            self.devices += 1
        elif owner := _OWNER.fullmatch(line):
            if len(self.owners) < _MOST_IDS:
                self.owners.add((int(owner[1]), int(owner[2])))
        elif self.first is None:
            self.first = _show(line)


def _show(line: bytes) -> str:
    text = printable(line.decode(errors="surrogateescape").strip())
    if len(text) > _LONGEST_SHOWN:
        return f"{text[:_LONGEST_SHOWN]}..."
    return text
