# SPDX-License-Identifier: Apache-2.0
"""GNU tar at work on a tree in its sandbox, and what came of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.archive import pack_sandbox, supervisor
from lxc_userns.rootfs.archive.limits import UnpackLimits
from lxc_userns.rootfs.archive.new_file import NewFile
from lxc_userns.rootfs.archive.tar_errors import MEMBER, Diagnostics
from lxc_userns.rootfs.shifting import ipc

_OPTIONS = (
    "--create",
    "--file=-",
    "--blocking-factor=128",
    "--format=posix",
    # The same tree is the same archive, whenever it is packed.
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--sort=name",
    # Names of users and groups would be the host's.
    "--numeric-owner",
    "--sparse",
    # What is unpacked again. ACLs in their raw form, which has IDs.
    "--xattrs",
    "--xattrs-include=user.*",
    "--xattrs-include=security.capability",
    "--xattrs-include=system.posix_acl_*",
    "--quoting-style=escape",
    # Sockets, which were counted.
    "--warning=no-file-ignored",
    # Of the names to leave out, which are given last, each is one name.
    "--anchored",
    "--no-wildcards",
)
# What tar says of a file that another process writes to; it goes on.
_CHANGED = re.compile(
    MEMBER + rb"(file changed as we read it"
    rb"|[Ff]ile removed before we read it"
    rb"|File shrank by [0-9]+ bytes?; padding with zeros)"
)
_HARMLESS = re.compile(
    rb"tar: Exiting with failure status due to previous( delayed)? errors"
)
_FULL = re.compile(
    rb".*(No space left on device|Disk quota exceeded|File too large).*"
)
_CODES = range(-127, 256)
_COUNTS = range(1 << 63)
_CHANGED_EXIT = 1


class CreationDiagnostics(Diagnostics):
    """Diagnostics of a creation.

    :param live: whether files may change meanwhile.
    """

    def __init__(self, live: bool) -> None:
        super().__init__()
        #: How many files changed as they were read.
        self.changed = 0
        #: Whether there was no room for the archive.
        self.is_full = False
        self._live = live

    def _sort(self, line: bytes) -> None:
        if _HARMLESS.fullmatch(line):
            return
        if _CHANGED.fullmatch(line):
            self.changed += 1
            if self._live:
                return
        self.is_full = self.is_full or bool(_FULL.fullmatch(line))
        super()._sort(line)


@dataclass(frozen=True, slots=True)
class TreeView:
    """A tree as tar is to see it.

    :param path: the tree, for messages.
    :param mount: descriptor of the root of a mount, read-only.
    :param namespace: descriptor of the user namespace.
    """

    path: str
    mount: int
    namespace: int


@dataclass(frozen=True, slots=True)
class Creation:
    """Result of a creation.

    :param devices: names of device nodes, which were left out.
    :param nodes: inodes that have these.
    :param sockets: sockets, which were left out too.
    :param changed: files that changed as they were read.
    """

    devices: int
    nodes: int
    sockets: int
    changed: int


def create(
    view: TreeView,
    target: NewFile,
    *,
    live: bool,
    progress: supervisor.Progress | None,
) -> Creation:
    """Write the archive of a tree.

    :param live: whether files may change meanwhile.
    :param progress: called with the bytes written so far, some ten times a
        second, from the calling thread.
    :raises RootfsError: if tar, or what compresses for it, complains.
    :raises PrerequisiteError: if one of them is missing.
    """
    said = CreationDiagnostics(live)
    job = _job(view, target)
    with supervisor.running(pack_sandbox.__name__, job) as process:
        supervisor.listen(process.errors, said, _position(target.fd), progress)
        if said.first is not None and not said.is_cut:
            raise _complaint(view.path, target.path, said)
        result = _receive(process.result, view.path)
    if said.first is not None:
        raise _complaint(view.path, target.path, said)
    _check(result, target, view.path, said)
    return Creation(
        result["devices"], result["nodes"], result["sockets"], said.changed
    )


def _position(fd: int) -> Callable[[], int]:
    return lambda: os.lseek(fd, 0, os.SEEK_CUR)


def _job(view: TreeView, target: NewFile) -> dict[str, Any]:
    find = partial(supervisor.find_program, "pack the archive")
    compressor = target.compressor
    return {
        "memory": UnpackLimits().max_memory,
        "descriptors": [target.fd, view.mount, view.namespace],
        "archive": target.fd,
        "view": view.mount,
        "namespace": view.namespace,
        "compressor": find(*compressor) if compressor else None,
        "tar": find("tar", *_OPTIONS),
    }


def _complaint(
    path: str, archive: str, said: CreationDiagnostics
) -> RootfsError:
    if said.is_full:
        return RootfsError(
            archive, "there is no room for it; make some, or compress more"
        )
    if said.changed:
        reason = f"{said.first}; stop what writes to it, or pack it --live"
        return RootfsError(path, reason)
    return RootfsError(path, f"cannot be packed: {said.first}")


def _receive(fd: int, path: str) -> dict[str, Any]:
    """Read the result of a process that is only the container's root."""
    try:
        match ipc.receive_plain(fd):
            case {"error": [int() | None as number, str(said)]} if (
                said.isprintable()
            ):
                said = supervisor.REASONS.get(number or 0, said[:300])
                reason = f"cannot be packed: {said}"
            case {"refused": str(said)} if said.isprintable():
                reason = said[:300]
            case {
                "tar": int(tar),
                "compressor": int(compressor),
                "devices": int(devices),
                "nodes": int(nodes),
                "sockets": int(sockets),
                **rest,
            } as result if (
                not rest
                and all(_is_in(_CODES, n) for n in (tar, compressor))
                and all(_is_in(_COUNTS, n) for n in (devices, nodes, sockets))
            ):
                return result
            case _:
                raise ValueError
    except EOFError:
        reason = "the process that packs it has died"
    except ValueError:
        reason = "the process that packs it has sent what is no result"
    raise RootfsError(path, reason)


def _is_in(numbers: range, value: int) -> bool:
    # JSON's true is an integer to Python.
    return type(value) is int and value in numbers


def _check(
    result: dict[str, Any],
    target: NewFile,
    path: str,
    said: CreationDiagnostics,
) -> None:
    """Check that both ended well, also if neither has said otherwise."""
    passed = (0, _CHANGED_EXIT) if said.changed else (0,)
    if result["compressor"] != 0:
        # What there is none of cannot fail, but can be said to.
        name = target.compressor[0] if target.compressor else "nothing"
        reason = f"{name} {supervisor.describe_exit(result['compressor'])}"
        raise RootfsError(target.path, reason)
    if result["tar"] not in passed:
        reason = f"tar {supervisor.describe_exit(result['tar'])}"
        raise RootfsError(path, reason)
