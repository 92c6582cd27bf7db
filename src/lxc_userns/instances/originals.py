# SPDX-License-Identifier: Apache-2.0
"""XML of domains as it was before they were converted."""

from __future__ import annotations

import os
from contextlib import suppress

from lxc_userns.linux import directory

_NAME, _MODE = "converted", 0o700
_LONGEST = 16 << 20


class OriginalDomains:
    """Files of XML below the state path, by the UUIDs of the domains.

    :param state_path: directory of root's that holds them, closed to others.
    """

    def __init__(self, state_path: str) -> None:
        self._path = state_path

    def keep(self, uuid: str, xml: str) -> None:
        """Write the XML of a domain to disk, in place of what is kept."""
        with directory.make_subdir(self._path, _MODE, _NAME, _MODE) as fd:
            directory.replace_file(fd, f"{uuid}.xml", xml)

    def read(self, uuid: str) -> str | None:
        """Return the XML that is kept of a domain, None if none is."""
        with directory.open_subdir(self._path, _MODE, _NAME) as fd:
            if fd is None:
                return None
            with suppress(FileNotFoundError):
                file = directory.open_regular(fd, f"{uuid}.xml")
                with open(file, encoding="utf-8") as stream:
                    return stream.read(_LONGEST)
        return None

    def forget(self, uuid: str) -> None:
        """Remove what is kept of a domain; nothing happens if none is."""
        with directory.open_subdir(self._path, _MODE, _NAME) as fd:
            if fd is not None:
                with suppress(FileNotFoundError):
                    os.unlink(f"{uuid}.xml", dir_fd=fd)
