# SPDX-License-Identifier: Apache-2.0
"""XML of domains as it was before they were converted."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lxc_userns import own_paths
from lxc_userns.instances import unknown_note
from lxc_userns.linux import directory, locks
from lxc_userns.linux.fd import owned

_NAME, _SUFFIX, _MODE = "converted", ".xml", 0o700
_LONGEST = 16 << 20
#: libvirt, which has written it, puts the name before all else.
_DOMAIN_NAME = re.compile("<name>([^<]*)</name>")


@dataclass(frozen=True, slots=True)
class OriginalDomain:
    """A domain as it was.

    :param uuid: its UUID.
    :param name: the name that it had; its UUID if that cannot be read.
    """

    uuid: str
    name: str


class OriginalDomains:
    """Files of XML below the state path, by the UUIDs of the domains.

    :param state_path: directory of root's that holds them, closed to others.
    """

    def __init__(self, state_path: str) -> None:
        self._path = state_path

    def keep(self, uuid: str, xml: str) -> None:
        """Write the XML of a domain to disk, in place of what is kept.

        :raises LockTimeoutError: as :meth:`lock`.
        :raises ConfigError: if the state path cannot be used.
        """
        with (
            own_paths.translated("state_path", self._path),
            self.lock(),
            directory.make_subdir(self._path, _MODE, _NAME, _MODE) as fd,
        ):
            directory.replace_file(fd, f"{uuid}{_SUFFIX}", xml)

    def read(self, uuid: str) -> str | None:
        """Return the XML that is kept of a domain, None if none is."""
        with self._opened(uuid) as fd:
            if fd is None:
                return None
            with open(fd, encoding="utf-8", closefd=False) as stream:
                return stream.read(_LONGEST)

    def all(self) -> list[OriginalDomain]:
        """Return all that are kept, by their UUIDs."""
        with directory.open_subdir(self._path, _MODE, _NAME) as fd:
            names = [] if fd is None else sorted(os.listdir(fd))
        found = []
        for file in names:
            uuid, suffix = os.path.splitext(file)
            # One after a dot is just written, or never was to its end.
            if suffix == _SUFFIX and not file.startswith("."):
                name = _DOMAIN_NAME.search(self._text(uuid))
                known = html.unescape(name[1]) if name else uuid
                found.append(OriginalDomain(uuid, known))
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from keeping one; no hook of libvirt waits for this.

        :raises LockTimeoutError: if others hold the lock for too long.
        """
        with (
            directory.make_subdir(self._path, _MODE, "locks", _MODE) as fd,
            locks.translated(_NAME),
            locks.held(fd, _NAME, is_for_hooks=False),
        ):
            yield

    def mark_unknown(self, uuid: str, now: int) -> int | None:
        """Note that libvirt may not know a domain, unless that is noted.

        :param now: in seconds of Unix time.
        :returns: what is noted, as ``now``; None if nothing is kept of it.
        :raises OSError: if the filesystem keeps no extended attributes.
        """
        with self._opened(uuid) as fd:
            if fd is None:
                return None
            unknown_note.write(fd, now)
            return unknown_note.read(fd)

    def confirm(self, uuid: str) -> None:
        """Note that libvirt knows a domain."""
        with self._opened(uuid) as fd:
            if fd is not None:
                unknown_note.remove(fd)

    def forget(self, uuid: str) -> None:
        """Remove what is kept of a domain; nothing happens if none is."""
        with directory.open_subdir(self._path, _MODE, _NAME) as fd:
            if fd is not None:
                with suppress(FileNotFoundError):
                    os.unlink(f"{uuid}{_SUFFIX}", dir_fd=fd)

    def _text(self, uuid: str) -> str:
        with suppress(OSError, UnicodeDecodeError):
            return self.read(uuid) or ""
        return ""

    @contextmanager
    def _opened(self, uuid: str) -> Iterator[int | None]:
        """Open the file of a domain, None if there is none."""
        with directory.open_subdir(self._path, _MODE, _NAME) as place:
            try:
                if place is None:
                    raise FileNotFoundError
                file = directory.open_regular(place, f"{uuid}{_SUFFIX}")
            except FileNotFoundError:
                yield None
                return
            with owned(file) as fd:
                yield fd
