# SPDX-License-Identifier: Apache-2.0
"""Users and groups of a container, by its own files (:manpage:`passwd(5)`).

The files are the container's doing: what breaks a rule is refused, or does
not count. Nothing is opened here.
"""

from __future__ import annotations

TYPE_CHECKING = False  # It loads little, for processes that start quickly.
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes of a file.
LONGEST_FILE = 4 << 20
#: Bytes of a line; a group can have many members.
LONGEST_LINE = 64 << 10
#: The last one, 4294967295, stands for "unchanged" in system calls.
_LAST_ID = 2**32 - 2
_DEFAULT_SHELL = b"/bin/sh"


class AccountError(ValueError):
    """No such user or group, or its line is no good."""


class User:
    """A user, and what a login would give it.

    :param name: its name, None if it has none.
    :param uid: user ID, 0..4294967294.
    :param gid: group ID of its main group, likewise.
    :param home: absolute path of its directory.
    :param shell: absolute path of its shell.
    """

    def __init__(
        self,
        name: bytes | None,
        uid: int,
        gid: int,
        home: bytes = b"/",
        shell: bytes = _DEFAULT_SHELL,
    ) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home if home.startswith(b"/") else b"/"
        self.shell = shell if shell.startswith(b"/") else _DEFAULT_SHELL


def parse_id(text: bytes) -> int | None:
    """Return the number of a user or group ID, None if it is none."""
    if not (text.isdigit() and len(text) <= len(str(_LAST_ID))):
        return None
    number = int(text)
    return number if number <= _LAST_ID else None


def find_named(passwd: bytes, name: bytes) -> User:
    """Find a user by name; the first line counts, as for the C library.

    :param passwd: contents of ``/etc/passwd``.
    :raises AccountError: if there is none, or its line is no good.
    """
    for fields in _lines(passwd):
        if fields[0] == name:
            return _parse_user(fields)
    raise AccountError("no such user in /etc/passwd of the container")


def find_numbered(passwd: bytes, uid: int) -> User | None:
    """Find a user by ID; a line that is no good does not count.

    :param passwd: contents of ``/etc/passwd``.
    """
    for fields in _lines(passwd):
        try:
            user = _parse_user(fields)
        except AccountError:
            continue
        if user.uid == uid:
            return user
    return None


def find_group(group: bytes, name: bytes) -> int:
    """Return the ID of a group.

    :param group: contents of ``/etc/group``.
    :raises AccountError: if there is none, or its line is no good.
    """
    for fields in _lines(group):
        if fields[0] == name:
            gid = _group_id(fields)
            if gid is None:
                raise AccountError("its line in /etc/group is malformed")
            return gid
    raise AccountError("no such group in /etc/group of the container")


def find_memberships(group: bytes, name: bytes) -> list[int]:
    """Return the IDs of the groups that have a user among their members.

    :param group: contents of ``/etc/group``.
    """
    found = {
        gid
        for fields in _lines(group)
        if (gid := _group_id(fields)) is not None
        and name in fields[3].split(b",")
    }
    return sorted(found)


def _lines(text: bytes) -> Iterator[list[bytes]]:
    if len(text) > LONGEST_FILE:
        raise AccountError(f"the file has more than {LONGEST_FILE} bytes")
    for line in text.split(b"\n"):
        if len(line) > LONGEST_LINE:
            raise AccountError(f"a line has more than {LONGEST_LINE} bytes")
        # Nothing that is executed can be given a null byte.
        if line and b"\0" not in line:
            yield line.split(b":")


def _parse_user(fields: list[bytes]) -> User:
    if len(fields) == 7 and fields[0]:
        uid, gid = parse_id(fields[2]), parse_id(fields[3])
        if uid is not None and gid is not None:
            return User(fields[0], uid, gid, *fields[5:])
    raise AccountError("its line in /etc/passwd is malformed")


def _group_id(fields: list[bytes]) -> int | None:
    return parse_id(fields[2]) if len(fields) == 4 else None
