# SPDX-License-Identifier: Apache-2.0
"""Definitions of domains, as libvirt keeps them on disk.

libvirtd reads them when it starts, and passes over one that it cannot read:
then it does not know the domain.
"""

from __future__ import annotations

import re
from pathlib import Path

DIRECTORY = Path("/etc/libvirt/lxc")
# libvirt writes the file itself, and the UUID right after the name.
_UUID = re.compile(r"</name>\s*<uuid>([0-9a-f-]{36})</uuid>")
_LONGEST = 16 << 20


class DefinedDomains:
    """The LXC domains of which there is a definition on this host.

    :param directory: where libvirt keeps them.
    """

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory

    def find(self, name: str, uuid: str | None) -> Path | None:
        """Return the file that defines a domain, None if there is none.

        :param name: name of the domain, or its UUID if that is given by hand.
        :param uuid: its UUID, None for whichever has that name.
        """
        for file in sorted(self._directory.glob("*.xml")):
            found = _read_uuid(file)
            is_named = file.stem == name and None in (uuid, found)
            if is_named or (found is not None and found in (name, uuid)):
                return file
        return None


def _read_uuid(file: Path) -> str | None:
    """Return the UUID in a file, None if it does not tell."""
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            found = _UUID.search(stream.read(_LONGEST))
    except OSError:
        return None
    return None if found is None else found[1]
