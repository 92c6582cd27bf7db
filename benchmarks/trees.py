# SPDX-License-Identifier: Apache-2.0
"""A root filesystem to shift: made, grown, and put back between two runs.

It is made of packages that look like a distribution's, each the same for the
same number on every machine: names of usual length, directories of usual
size, small files, symbolic links, owners of services and users, and now and
then a set-user-ID program, a hard link, file capabilities or an ACL.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path

#: What the benchmarks shift for: guest, host, count.
ENTRY = (0, 100000, 65536)

CAPABILITY = "security.capability"
ACL = "system.posix_acl_access"
STATE = "trusted.lxc_userns.state"

_LANGUAGES = (
    *("ar", "de", "en_GB", "es", "fr", "ja", "nb", "pt_BR", "ru", "uk"),
    *("vi", "zh_CN"),
)
_MODULES = (
    *("cli", "config", "core", "errors", "models", "parser", "schema"),
    *("utils", "views"),
)
_PYTHON = "usr/lib/python3/dist-packages"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"

# cap_net_raw=ep as of capabilities(7): version 2, permitted, inheritable.
_NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
# user::rw-, user:1000:r--, group::r--, mask::r--, other::--- as of acl(5).
_UNDEFINED = 0xFFFFFFFF
_USER_1000 = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (0x01, 6, _UNDEFINED),
        (0x02, 4, 1000),
        (0x04, 4, _UNDEFINED),
        (0x10, 4, _UNDEFINED),
        (0x20, 0, _UNDEFINED),
    )
)


@dataclass(frozen=True, slots=True)
class Inode:
    """One inode of the tree, as guest IDs have it.

    :param path: path below the root.
    :param mode: type and permissions.
    :param uid: guest user ID.
    :param gid: guest group ID.
    :param target: where a symbolic link leads.
    :param links: other names of a file, below the root.
    :param xattrs: extended attributes.
    """

    path: str
    mode: int = stat.S_IFREG | 0o644
    uid: int = 0
    gid: int = 0
    target: str = ""
    links: tuple[str, ...] = ()
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def needs_more_than_owner(self) -> bool:
        """Whether a chown takes something away that has to be put back."""
        return bool(self.mode & 0o6000 or self.xattrs)


def package(number: int) -> Iterator[Inode]:
    """The inodes of one package, parents before what is in them."""
    name = f"{'lib' * (number % 3 == 0)}package-{number:05d}"
    yield from _documentation(name)
    yield from _modules(name.replace("-", "_"), number)
    yield from _translations(name, number)
    yield from _programs(name, number)
    yield from _library(name, number)
    yield from _service(name, number)
    yield from _home(number)


def _directory(path: str, uid: int = 0, mode: int = 0o755) -> Inode:
    return Inode(path, stat.S_IFDIR | mode, uid, uid)


def _link(path: str, target: str) -> Inode:
    return Inode(path, stat.S_IFLNK | 0o777, target=target)


def _documentation(name: str) -> Iterator[Inode]:
    top = f"usr/share/doc/{name}"
    yield _directory(top)
    yield Inode(f"{top}/copyright")
    yield Inode(f"{top}/changelog.Debian.gz")
    yield _link(f"{top}/NEWS.gz", "changelog.Debian.gz")


def _modules(name: str, number: int) -> Iterator[Inode]:
    top = f"{_PYTHON}/{name}"
    yield _directory(top)
    yield _directory(f"{top}/__pycache__")
    for module in ("__init__", *_MODULES[: number % 9 + 1]):
        yield Inode(f"{top}/{module}.py")
        yield Inode(f"{top}/__pycache__/{module}.cpython-311.pyc")


def _translations(name: str, number: int) -> Iterator[Inode]:
    for language in _LANGUAGES[: number % len(_LANGUAGES)]:
        yield Inode(f"usr/share/locale/{language}/LC_MESSAGES/{name}.mo")


def _programs(name: str, number: int) -> Iterator[Inode]:
    top = f"usr/bin/{name}"
    mode = stat.S_IFREG | 0o755
    yield Inode(top, mode, links=(f"{top}-5.36",) * (number % 10 == 0))
    yield _link(f"usr/share/man/man1/{name}.1.gz", "../man7/package.7.gz")
    if number % 100 == 1:
        yield Inode(f"{top}-su", mode | stat.S_ISUID)
    if number % 100 == 2:
        yield Inode(f"{top}-mail", mode | stat.S_ISGID, gid=8)
    if number % 200 == 3:
        yield Inode(f"{top}-ping", mode, xattrs={CAPABILITY: _NET_RAW})


def _library(name: str, number: int) -> Iterator[Inode]:
    if number % 3 == 0:
        top = f"{_LIBRARIES}/{name}.so"
        yield Inode(f"{top}.1.{number % 7}.0")
        yield _link(f"{top}.1", f"{name}.so.1.{number % 7}.0")


def _service(name: str, number: int) -> Iterator[Inode]:
    if number % 20 == 4:
        uid = 100 + number // 20 % 800
        yield _directory(f"var/lib/{name}", uid, 0o750)
        yield Inode(f"var/lib/{name}/data.db", uid=uid, gid=uid)
        acl = {ACL: _USER_1000} if number % 200 == 4 else {}
        yield Inode(f"var/log/{name}.log", uid=uid, gid=4, xattrs=acl)


def _home(number: int) -> Iterator[Inode]:
    if number % 50 == 5:
        uid = 1000 + number // 50
        top = f"home/user{uid}"
        yield _directory(top, uid, 0o700)
        for name in (".bashrc", ".profile", "notes.txt"):
            yield Inode(f"{top}/{name}", uid=uid, gid=uid)


def top_directories() -> Iterator[Inode]:
    """The directories that packages share."""
    paths = [
        # libvirt needs it, and we make it where it is missing.
        ".oldroot",
        "home",
        "usr/bin",
        "usr/share/doc",
        "usr/share/man/man1",
        "var/lib",
        "var/log",
        _LIBRARIES,
        _PYTHON,
        *(f"usr/share/locale/{each}/LC_MESSAGES" for each in _LANGUAGES),
    ]
    made = {""}
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            above = "/".join(parts[:depth])
            if above not in made:
                made.add(above)
                yield _directory(above)


class Tree:
    """The tree on disk.

    :param root: its root directory, which is made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._packages = 0
        root.mkdir(mode=0o755)
        #: Number of inodes, the root directory among them.
        self.inodes = 1
        for inode in top_directories():
            self._make(inode)

    def grow(self, inodes: int) -> None:
        """Add packages until there are at least so many inodes."""
        while self.inodes < inodes:
            for inode in package(self._packages):
                self._make(inode)
            self._packages += 1

    def contents(self) -> Iterator[Inode]:
        """All inodes but the root directory."""
        yield from top_directories()
        for number in takewhile(lambda n: n < self._packages, count()):
            yield from package(number)

    def restore(self) -> None:
        """Give everything its guest IDs back, whatever a tool made of it."""
        with suppress(OSError):
            os.removexattr(self.root, STATE)
        os.chown(self.root, 0, 0)
        with chdir(self.root):
            for inode in self.contents():
                os.lchown(inode.path, inode.uid, inode.gid)
                if inode.needs_more_than_owner:
                    _finish(inode)

    def _make(self, inode: Inode) -> None:
        path = f"{self.root}/{inode.path}"
        if stat.S_ISDIR(inode.mode):
            os.mkdir(path)
        elif stat.S_ISLNK(inode.mode):
            os.symlink(inode.target, path)
        else:
            _write(path, inode)
        for link in inode.links:
            os.link(path, f"{self.root}/{link}")
        self.inodes += 1
        os.lchown(path, inode.uid, inode.gid)
        if not stat.S_ISLNK(inode.mode):
            os.chmod(path, stat.S_IMODE(inode.mode))
        for name, value in inode.xattrs.items():
            os.setxattr(path, name, value)


def _write(path: str, inode: Inode) -> None:
    with open(path, "xb", buffering=0) as stream:
        # Blocks on disk play no part in a change of owners; a few have some.
        if inode.path.endswith((".py", "copyright")):
            stream.write(inode.path.encode())


def _finish(inode: Inode) -> None:
    if inode.mode & 0o6000:
        os.chmod(inode.path, stat.S_IMODE(inode.mode))
    for name, value in inode.xattrs.items():
        os.setxattr(inode.path, name, value)
