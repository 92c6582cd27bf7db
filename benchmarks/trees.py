# SPDX-License-Identifier: Apache-2.0
"""A root filesystem to shift: made, grown, and put back between two runs.

It is made of packages that look like a distribution's, each the same for the
same number on every machine: small files, symbolic links, owners of services
and users, and now and then a set-user-ID program, a hard link, file
capabilities or an ACL.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import chdir, suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from lxc_userns.rootfs.shifting.state import STATE
from tests.functional.rootfs.golden import ACCESS, CAPABILITY, CAPS, NO_ID, acl

_FILE, _PROGRAM = stat.S_IFREG | 0o644, stat.S_IFREG | 0o755
_DIRECTORY, _LINK = stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
# user::rw-, user:1000:r--, group::r--, mask::r--, other::--- as of acl(5).
_TAGS = ((1, 6, NO_ID), (2, 4, 1000), (4, 4, NO_ID), (16, 4, NO_ID))
_ACL = acl(*_TAGS, (32, 0, NO_ID))
# libvirt needs .oldroot, and we make it where it is missing.
_SHARED = (".oldroot", "home", "usr", "usr/bin", "usr/doc", "usr/lib", "var")


class Inode(NamedTuple):
    """One inode, as guest IDs have it.

    :param link: another name of a file, below the root.
    :param xattr: an extended attribute and its value.
    """

    path: str
    mode: int = _FILE
    owner: int = 0
    link: str = ""
    xattr: tuple[str, bytes] | None = None

    def make(self) -> None:
        """Make it below the current directory."""
        if stat.S_ISLNK(self.mode):
            os.symlink("changelog.gz", self.path)
        elif stat.S_ISDIR(self.mode):
            os.mkdir(self.path)
        else:
            # Blocks on disk play no part in a change of owners; a few have
            # some.
            text = "text" * self.path.endswith("copyright")
            Path(self.path).write_text(text)
        if self.link:
            os.link(self.path, self.link)
        self.restore()

    def restore(self) -> None:
        """Give it its guest IDs, and what a change of owners takes away."""
        os.lchown(self.path, self.owner, self.owner)
        if not stat.S_ISLNK(self.mode):
            os.chmod(self.path, stat.S_IMODE(self.mode))
        if self.xattr:
            os.setxattr(self.path, *self.xattr)


def package(number: int) -> Iterator[Inode]:
    """Return the inodes of one package, parents before what is in them."""
    for path in _SHARED if number == 0 else ():
        yield Inode(path, _DIRECTORY)
    name = f"{'lib' * (number % 3 == 0)}package-{number:05d}"
    for top in (f"usr/doc/{name}", f"usr/lib/{name}"):
        yield Inode(top, _DIRECTORY)
        yield Inode(f"{top}/copyright")
        for file in range(number % 20):
            yield Inode(f"{top}/file-{file}.cpython-311.pyc")
        yield Inode(f"{top}/NEWS.gz", _LINK)
    yield from _special(name, f"usr/bin/{name}", number)


def _special(name: str, path: str, number: int) -> Iterator[Inode]:
    yield Inode(path, _PROGRAM, link=f"{path}-5" if number % 5 == 0 else "")
    owner = 100 + number // 20
    match number % 100:
        case 1:
            yield Inode(f"{path}-su", _PROGRAM | stat.S_ISUID)
        case 2:
            yield Inode(f"{path}-mail", _PROGRAM | stat.S_ISGID, 8)
        case 3:
            yield Inode(f"{path}-ping", xattr=(CAPABILITY, CAPS))
        case 4:
            yield Inode(f"var/{name}", owner=owner, xattr=(ACCESS, _ACL))
        case 5 | 25 | 45 | 65 | 85:
            yield Inode(f"home/{name}", _DIRECTORY, owner)
            for file in range(10):
                yield Inode(f"home/{name}/{file}.txt", owner=owner)


class Tree:
    """The tree on disk, which is made with its root directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o755)
        #: Number of inodes, the root directory among them.
        self.inodes = 1
        self._packages = 0

    def __iter__(self) -> Iterator[Inode]:
        """Iterate over all inodes but the root directory."""
        return chain.from_iterable(map(package, range(self._packages)))

    def grow(self, inodes: int) -> None:
        """Add packages until there are at least so many inodes."""
        with chdir(self.root):
            while self.inodes < inodes:
                for inode in package(self._packages):
                    inode.make()
                    self.inodes += 1
                self._packages += 1

    def restore(self) -> None:
        """Give everything its guest IDs back, whatever a tool made of it."""
        with suppress(OSError):
            os.removexattr(self.root, STATE)
        os.chown(self.root, 0, 0)
        with chdir(self.root):
            for inode in self:
                inode.restore()
