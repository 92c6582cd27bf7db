# SPDX-License-Identifier: Apache-2.0
"""Whiteouts of a layer: what it hides of the layers below is removed.

A file ``.wh.NAME`` hides NAME beside it, and ``.wh..wh..opq`` all that is in
its directory (OCI image specification, layer.md). So do a directory that takes
the place of something else, and the other way round, where tar would go
through a link, or fail. It runs in the sandbox, on names that tar lists, while
nothing of the layer is there yet. It loads little, to start quickly.
"""

from __future__ import annotations

import os
import stat

from lxc_userns.linux import openat2
from lxc_userns.linux.fd import owned
from lxc_userns.rootfs.archive.tar_listing import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    #: Removes a directory, given the descriptor of the one that it is in, and
    #: its name.
    Remover = Callable[[int, bytes], None]

MARK = b".wh."
_OPAQUE = b".wh..wh..opq"
#: Other names that begin so are of aufs, and for its own use.
_RESERVED = b".wh..wh."
_NO_NAMES = (b"", b".", b"..")
#: Bytes of a name that are kept; tar refuses what the kernel cannot have.
_LONGEST = 1 << 20


class Hidden:
    """Removes what a layer hides.

    :param root: descriptor of the root of the tree.
    :param remove_directory: removes a directory that may not be empty.
    """

    def __init__(self, root: int, remove_directory: Remover) -> None:
        #: Number of whiteouts.
        self.whiteouts = 0
        self._root = root
        self._remove_directory = remove_directory
        self._rest = b""

    def feed(self, listed: bytes) -> int:
        """Read on in the list of the layer's members.

        :param listed: what came, cut anywhere.
        :returns: the number of lines that came to their end.
        :raises OSError: if something could not be removed.
        """
        *lines, rest = (self._rest + listed).split(b"\n")
        self._rest = rest[:_LONGEST]
        for line in lines:
            self._look_at(unescape(line) if b"\\" in line else line)
        return len(lines)

    def _look_at(self, member: bytes) -> None:
        parts = [
            part for part in member.split(b"/") if part not in (b"", b".")
        ]
        # tar says what is wrong with the latter.
        if not parts or b".." in parts:
            return
        *above, name = parts
        parent = b"/".join(above) or b"."
        if name.startswith(MARK):
            self._apply(parent, name)
        else:
            self._make_way(parent, name, member.endswith(b"/"))

    def _apply(self, parent: bytes, name: bytes) -> None:
        self.whiteouts += 1
        hidden = name.removeprefix(MARK)
        if name == _OPAQUE:
            self._remove(parent, None)
        elif not name.startswith(_RESERVED) and hidden not in _NO_NAMES:
            self._remove(parent, hidden)

    def _make_way(
        self, parent: bytes, name: bytes, is_directory: bool
    ) -> None:
        try:
            # Cheap; and whatever a link makes of it, nothing is done by it.
            found = os.lstat(os.path.join(parent, name), dir_fd=self._root)
        except OSError:
            return
        if stat.S_ISDIR(found.st_mode) != is_directory:
            self._remove(parent, name)

    def _remove(self, parent: bytes, name: bytes | None) -> None:
        """Remove a name in a directory, or all; links lead within the tree."""
        try:
            fd = openat2.lookup_directory(self._root, parent)
        except (FileNotFoundError, NotADirectoryError):
            return
        with owned(fd):
            names = (
                map(os.fsencode, os.listdir(fd)) if name is None else [name]
            )
            for each in names:
                self._remove_one(fd, each)

    def _remove_one(self, parent: int, name: bytes) -> None:
        try:
            found = os.lstat(name, dir_fd=parent)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            self._remove_directory(parent, name)
        else:
            os.unlink(name, dir_fd=parent)
