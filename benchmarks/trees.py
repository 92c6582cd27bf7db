# SPDX-License-Identifier: Apache-2.0
"""A root filesystem to shift: made, grown, and put back between two runs.

It is made of packages that look like a distribution's, each the same for the
same number on every machine: small files, symbolic links, owners of services
and users, and now and then a set-user-ID program, a hard link, file
capabilities or an ACL.
"""

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import chdir, suppress
from pathlib import Path
from typing import NamedTuple

CAPABILITY, ACL = "security.capability", "system.posix_acl_access"
_FILE, _PROGRAM = stat.S_IFREG | 0o644, stat.S_IFREG | 0o755
_DIRECTORY, _LINK = stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
# cap_net_raw=ep as of capabilities(7): version 2, permitted, inheritable.
_NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
# user::rw-, user:1000:r--, group::r--, mask::r--, other::--- as of acl(5).
_USER_1000 = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, 1000 if tag == 2 else 0xFFFFFFFF)
    for tag, permissions in ((1, 6), (2, 4), (4, 4), (16, 4), (32, 0))
)
# libvirt needs .oldroot, and we make it where it is missing.
_SHARED = (".oldroot", "home", "usr", "usr/bin", "usr/doc", "usr/lib", "var")


class Inode(NamedTuple):
    """One inode, as guest IDs have it.

    :param target: where a symbolic link leads.
    :param link: another name of a file, below the root.
    :param xattr: an extended attribute and its value.
    """

    path: str
    mode: int = _FILE
    owner: int = 0
    target: str = ""
    link: str = ""
    xattr: tuple[str, bytes] | None = None


def contents(packages: range) -> Iterator[Inode]:
    """Return the inodes of some packages, parents before what is in them."""
    for path in _SHARED if packages.start == 0 else ():
        yield Inode(path, _DIRECTORY)
    for number in packages:
        name = f"{'lib' * (number % 3 == 0)}package-{number:05d}"
        for top in (f"usr/doc/{name}", f"usr/lib/{name}"):
            yield Inode(top, _DIRECTORY)
            yield Inode(f"{top}/copyright")
            for file in range(number % 20):
                yield Inode(f"{top}/file-{file}.cpython-311.pyc")
            yield Inode(f"{top}/NEWS.gz", _LINK, target="changelog.gz")
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
            yield Inode(f"{path}-ping", xattr=(CAPABILITY, _NET_RAW))
        case 4:
            acl = (ACL, _USER_1000)
            yield Inode(f"var/{name}", owner=owner, xattr=acl)
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

    def grow(self, inodes: int) -> None:
        """Add packages until there are at least so many inodes."""
        with chdir(self.root):
            while self.inodes < inodes:
                for inode in contents(
                    range(self._packages, self._packages + 1)
                ):
                    _make(inode)
                    self.inodes += 1
                self._packages += 1

    def contents(self) -> Iterator[Inode]:
        """Return all inodes but the root directory."""
        return contents(range(self._packages))

    def restore(self) -> None:
        """Give everything its guest IDs back, whatever a tool made of it."""
        with suppress(OSError):
            os.removexattr(self.root, "trusted.lxc_userns.state")
        os.chown(self.root, 0, 0)
        with chdir(self.root):
            for inode in self.contents():
                _finish(inode)


def _make(inode: Inode) -> None:
    if stat.S_ISLNK(inode.mode):
        os.symlink(inode.target, inode.path)
    elif stat.S_ISDIR(inode.mode):
        os.mkdir(inode.path, 0o755)
    else:
        # Blocks on disk play no part in a change of owners; a few have some.
        Path(inode.path).write_text("text" * inode.path.endswith("copyright"))
        os.chmod(inode.path, stat.S_IMODE(inode.mode))
    if inode.link:
        os.link(inode.path, inode.link)
    _finish(inode)


def _finish(inode: Inode) -> None:
    os.lchown(inode.path, inode.owner, inode.owner)
    # What a change of owners takes away.
    if inode.mode & 0o6000:
        os.chmod(inode.path, stat.S_IMODE(inode.mode))
    if inode.xattr:
        os.setxattr(inode.path, *inode.xattr)
