# SPDX-License-Identifier: Apache-2.0
"""The list of members that tar prints while it extracts them.

Whiteouts are counted in it: what a layer of an image has where a file of the
layer below is gone. overlayfs takes a character device of number 0:0 for one,
and the OCI image specification a file whose name begins with ``.wh.``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

#: Bytes of what is printed that are kept at least, its end: more than the
#: line that says that the archive has one.
_TAIL = 200
#: Bytes of a line that are kept; what comes before the name is at its start.
_LONGEST_LINE = 1 << 20
_CONTROLS = dict(zip(b"abtnvfr", b"\a\b\t\n\v\f\r", strict=True))
_LINE = rb"^(?:block \d+: )?%b\S{9,10} +\d+/\d+ +%b "
# Names have their line breaks escaped; between them and the owner is the time.
_DEVICE = _LINE % (b"c", b"0,0")
_FILE = _LINE % (b"-", rb"\d+") + rb"\S+ \S+ (?:[^\n]*/)?\.wh\.[^/\n]*$"


class Listing:
    """Counts lines and whiteouts; keeps the end."""

    def __init__(self) -> None:
        #: Character devices of number 0:0.
        self.whiteouts = 0
        #: Regular files whose names say that they stand for one.
        self.whiteout_files = 0
        self._rest = b""
        self._end = b"\n"

    @property
    def end(self) -> bytes:
        """Return the last that was printed, a line break before it."""
        return (self._end + self._rest)[-_TAIL:]

    def feed(self, said: bytes) -> int:
        """Read on.

        :param said: what came, cut anywhere.
        :returns: the number of lines that came to their end.
        """
        whole, newline, rest = (self._rest + said).rpartition(b"\n")
        self._rest = rest[:_LONGEST_LINE]
        if not newline:
            return 0
        self._end = (self._end + whole + newline)[-_TAIL:]
        if b" 0,0 " in whole:
            self.whiteouts += _count(_DEVICE, whole)
        if b".wh." in whole:
            self.whiteout_files += _count(_FILE, whole)
        return whole.count(b"\n") + 1


def unescape(name: bytes) -> bytes:
    """Return a name that tar has printed as it is in the archive.

    The same name is escaped in one way as a member, in another as a target.
    """
    # Loaded late: most archives do without.
    import re

    return re.sub(rb"\\([0-7]{3}|.)", _unescape, name)


def _unescape(match: re.Match[bytes]) -> bytes:
    found = match[1]
    if len(found) == 1:
        return bytes((_CONTROLS.get(found[0], found[0]),))
    return bytes((int(found, 8) & 0xFF,))


def _count(pattern: bytes, lines: bytes) -> int:
    # Loaded late: most archives do without.
    import re

    return len(re.findall(pattern, lines, re.MULTILINE))
