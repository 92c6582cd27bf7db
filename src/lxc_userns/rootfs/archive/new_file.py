# SPDX-License-Identifier: Apache-2.0
"""A new archive: a file that has its name once all of it is on the disk.

It has none before, where the filesystem can have such files (O_TMPFILE of
:manpage:`open(2)`), so that nothing is left of it however this ends.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.linux import directory, renames, safe_path
from lxc_userns.text import printable

_GZIP, _XZ, _ZSTD = (
    ("gzip", "--stdout", "--no-name"),
    ("xz", "--stdout", "--threads=1"),
    ("zstd", "--stdout", "--quiet"),
)
#: Programs that compress, and their arguments, by the end of the name.
_COMPRESSORS: dict[str, tuple[str, ...]] = {
    ".tar": (),
    ".tar.gz": _GZIP,
    ".tgz": _GZIP,
    ".tar.xz": _XZ,
    ".txz": _XZ,
    ".tar.zst": _ZSTD,
    ".tzst": _ZSTD,
}
# The owner of a tree's secrets is the root of its host.
_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_CLOEXEC
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is being written.

    :param path: what it is going to be, for messages.
    :param fd: its descriptor, for writing.
    :param compressor: program that compresses it, by name, and its
        arguments; none if it is to be plain.
    """

    path: str
    fd: int
    compressor: tuple[str, ...]


@contextmanager
def created(path: str | os.PathLike[str]) -> Iterator[NewFile]:
    """Create a file that has its name if the body comes to its end.

    :param path: it is not there, and no one but root can put it there.
    :raises RootfsError: if it is, could be replaced, or cannot be written;
        for every OSError in the body too.
    """
    given = os.fspath(path)
    shown = printable(given)
    compressor = _find_compressor(given, shown)
    with (
        translated(RootfsError, shown),
        safe_path.opened_parent(os.path.abspath(given)) as (above, name),
        directory.opened_in(above, ".") as parent,
    ):
        _check_free(parent, name, shown)
        with _temporary(parent) as (fd, temporary):
            yield NewFile(shown, fd, compressor)
            os.fsync(fd)
            try:
                _give_name(parent, fd, temporary, name)
            except FileExistsError:
                _check_free(parent, name, shown)
                raise
            os.fsync(parent)


def _find_compressor(path: str, shown: str) -> tuple[str, ...]:
    for end, argv in _COMPRESSORS.items():
        if path.endswith(end):
            return argv
    ends = ", ".join(_COMPRESSORS)
    raise RootfsError(
        shown, f"does not say how to compress it; give a name in one of {ends}"
    )


def _check_free(parent: int, name: str, shown: str) -> None:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        raise RootfsError(
            shown, "is there already; remove it, or give another name"
        )


@contextmanager
def _temporary(parent: int) -> Iterator[tuple[int, str | None]]:
    """Create a file without a name, or else with one of its own."""
    name = None
    try:
        fd = os.open(".", _FLAGS | os.O_TMPFILE, _MODE, dir_fd=parent)
    except OSError as err:
        if err.errno not in _NO_TMPFILE:
            raise
        name = f".packing-{secrets.token_hex(8)}"
        flags = _FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(name, flags, _MODE, dir_fd=parent)
    try:
        yield fd, name
    finally:
        os.close(fd)
        if name is not None:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)


def _give_name(parent: int, fd: int, temporary: str | None, name: str) -> None:
    """Give it its name, unless that is taken."""
    if temporary is None:
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=parent)
        return
    try:
        os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as err:
        if err.errno not in _NO_LINKS:
            raise
        renames.rename_new(parent, temporary, name)
