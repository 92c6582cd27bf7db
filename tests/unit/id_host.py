# SPDX-License-Identifier: Apache-2.0
"""Users, groups and files of IDs of a host, in place of this one's."""

import grp
import io
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILES = {
    f"/etc/{name}": name
    for name in ("login.defs", "nsswitch.conf", "subgid", "subuid")
}
#: Those of any process: there are no others in a test.
MAPS = ("uid_map", "gid_map")


class IdHost:
    """A host without users, groups and subordinate IDs, until there are.

    The interpreter's own functions answer for it, so that all of ours run.

    :param place: an empty directory for its files.
    """

    def __init__(self, place: Path, patch: pytest.MonkeyPatch) -> None:
        self.users: dict[int, str] = {}
        self.groups: dict[int, str] = {}
        #: Asked for a name or a number that is not listed.
        self.find_user: Callable[[Any], Any] = {}.__getitem__
        self.find_group: Callable[[Any], Any] = {}.__getitem__
        self._place = place
        self._patch = patch
        self._open, self._io_open = os.open, io.open
        patch.setattr(os, "open", self._opened)
        # By which pathlib opens.
        patch.setattr(io, "open", self._io_opened)
        patch.setattr(pwd, "getpwall", self._getpwall)
        patch.setattr(pwd, "getpwnam", self._getpwnam)
        patch.setattr(pwd, "getpwuid", self._getpwuid)
        patch.setattr(grp, "getgrall", self._getgrall)
        patch.setattr(grp, "getgrgid", self._getgrgid)

    def file(self, path: str) -> Path:
        """Return what stands for a file of ``/etc``, or a file of maps."""
        return self._place / FILES.get(path, path)

    def hold(self, user: str = "", group: str = "") -> None:
        """Set the text of ``/etc/subuid`` and ``/etc/subgid``."""
        self.file("/etc/subuid").write_text(user, "utf-8")
        self.file("/etc/subgid").write_text(group, "utf-8")

    def map(self, *ids: range) -> None:
        """Set what IDs there are in the user namespace of this process."""
        rows = "".join(f"{each.start} 0 {len(each)}\n" for each in ids)
        for name in MAPS:
            self.file(name).write_text(rows, "utf-8")

    def answer_getsubids(self, code: int, said: str) -> None:
        """Make ``getsubids`` a program that says this, whoever asks."""
        self._program().write_text(
            f'#!/bin/sh\necho "$@" >>{self._place}/asked\n'
            f"cat <<'.'\n{said}.\nexit {code}\n"
        )
        self._program().chmod(0o755)
        self._patch.setenv("PATH", f"{self._place}/bin", prepend=":")

    @property
    def asked_for(self) -> list[str]:
        """Arguments that ``getsubids`` was called with."""
        file = self._place / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def _program(self) -> Path:
        path = self._place / "bin/getsubids"
        path.parent.mkdir(exist_ok=True)
        return path

    def _opened(self, path: Any, *rest: Any, **options: Any) -> int:
        if path in MAPS and self.file(path).exists():
            return self._open(self.file(path), *rest)
        return self._open(path, *rest, **options)

    def _io_opened(self, path: Any, *rest: Any, **options: Any) -> Any:
        if str(path) in FILES:
            path = self.file(str(path))
        return self._io_open(path, *rest, **options)

    def _getpwall(self) -> list[pwd.struct_passwd]:
        return [
            pwd.struct_passwd((name, "x", number, 1, "", "/", ""))
            for number, name in self.users.items()
        ]

    def _getpwnam(self, name: str) -> pwd.struct_passwd:
        found = {each.pw_name: each for each in self._getpwall()}.get(name)
        return found or self.find_user(name)

    def _getpwuid(self, number: int) -> pwd.struct_passwd:
        found = {each.pw_uid: each for each in self._getpwall()}.get(number)
        return found or self.find_user(number)

    def _getgrall(self) -> list[grp.struct_group]:
        return [
            grp.struct_group((name, "x", number, []))
            for number, name in self.groups.items()
        ]

    def _getgrgid(self, number: int) -> grp.struct_group:
        found = {each.gr_gid: each for each in self._getgrall()}.get(number)
        return found or self.find_group(number)
