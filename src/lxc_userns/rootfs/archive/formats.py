# SPDX-License-Identifier: Apache-2.0
"""Tar archives as files: what they are compressed by, and how far one is.

See :manpage:`tar(5)` for the format, RFC 1952, the XZ file format and RFC
8878 for the marks that compressed data begins with.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.linux import safe_path
from lxc_userns.linux.fd import owned
from lxc_userns.linux.safe_path import ROOT_ONLY, Trust
from lxc_userns.text import printable

#: How much of a file's beginning is looked at, in bytes: a header's size.
LENGTH = 512

_MAGIC = {
    b"\x1f\x8b": ("gzip", "--decompress", "--stdout"),
    b"\xfd7zXZ\0": ("xz", "--decompress", "--stdout", "--threads=1"),
    # Whatever window it was compressed with (zstd(1), --long); the limit of
    # memory is ours.
    b"\x28\xb5\x2f\xfd": ("zstd", "--decompress", "--stdout", "--long=31"),
}
_NO_ARCHIVE = "is not a tar archive, plain or compressed by gzip, xz or zstd"
_CHECKSUM = slice(148, 156)
# int() would take signs and underscores, which tar does not.
_OCTAL = re.compile(rb"[ \0]*([0-7]+)[ \0]*")


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive at hand.

    :param path: its path as the caller knows it.
    :param fd: descriptor of it, which is at its beginning.
    :param decompressor: the program that unpacks it to a tar archive, by
        name, and its arguments; none if it is one.
    """

    path: str
    fd: int
    decompressor: tuple[str, ...]

    @property
    def position(self) -> int:
        """Return the bytes read by all that have the descriptor."""
        return os.lseek(self.fd, 0, os.SEEK_CUR)

    def rewind(self) -> None:
        """Begin anew."""
        os.lseek(self.fd, 0, os.SEEK_SET)


def find_decompressor(head: bytes) -> tuple[str, ...] | None:
    """Return the command that decompresses a tar archive.

    :param head: its first :data:`LENGTH` bytes, or all if it has fewer.
    :returns: a program, by name, and its arguments; none for a tar archive
        as it is; None if it is nothing of the kind.
    """
    for magic, argv in _MAGIC.items():
        if head.startswith(magic):
            return argv
    if _is_skippable_frame(head):
        return _MAGIC[b"\x28\xb5\x2f\xfd"]
    return () if _is_header(head) else None


def is_end(head: bytes) -> bool:
    """Return whether a tar archive that begins so has no members.

    :param head: as for :func:`find_decompressor`.
    """
    return len(head) == LENGTH and not any(head)


@contextmanager
def opened(
    path: str | os.PathLike[str], trust: Trust = ROOT_ONLY
) -> Iterator[Archive]:
    """Open an archive.

    :param trust: rules for the directories above it.
    :raises RootfsError: if it cannot be read, is none, or others could
        replace it.
    """
    shown = printable(os.fspath(path))
    with translated(RootfsError, shown):
        fd = open_regular(os.fspath(path), trust)
    if fd is None:
        raise RootfsError(shown, _NO_ARCHIVE)
    with owned(fd):
        yield Archive(shown, fd, decompressor_of(fd, shown))


def open_regular(path: str, trust: Trust) -> int | None:
    """Open a regular file for reading; None for any other.

    Another is not opened: a FIFO is not waited for.

    :param trust: rules for the directories above it.
    :raises OSError: if it cannot be read, or others could replace it.
    """
    os.stat(path)  # To abspath(), "" is the working directory.
    with safe_path.opened(os.path.abspath(path), trust) as place:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return None
        link = f"/proc/self/fd/{place}"
        return os.open(link, os.O_RDONLY | os.O_CLOEXEC)


def decompressor_of(fd: int, path: str) -> tuple[str, ...]:
    """Return the command that decompresses a tar archive.

    :param fd: descriptor of it.
    :param path: its path, for messages.
    :raises RootfsError: if it is none.
    """
    found = find_decompressor(os.pread(fd, LENGTH, 0))
    if found is None:
        raise RootfsError(path, _NO_ARCHIVE)
    return found


def _is_skippable_frame(head: bytes) -> bool:
    # pzstd begins with one.
    return head[:1] in b"PQRSTUVWXYZ[\\]^_" and head[1:4] == b"\x2a\x4d\x18"


def _is_header(head: bytes) -> bool:
    # The checksum is over the whole header, with blanks for itself. Every
    # kind of header has it, and not every kind has a magic string.
    if len(head) < LENGTH:
        return False
    match = _OCTAL.fullmatch(head[_CHECKSUM])
    if match is None:
        return False
    stated = int(match[1], 8)
    rest = head[: _CHECKSUM.start] + b" " * 8 + head[_CHECKSUM.stop : LENGTH]
    # Some have taken bytes for signed numbers.
    return stated in (sum(rest), sum(b - 256 if b > 127 else b for b in rest))
