# SPDX-License-Identifier: Apache-2.0
"""A tree with everything in it, and what a shift has to make of it.

The expectation is computed from the kernel's formats alone, with none of the
code under test.
"""

import fcntl
import hashlib
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lxc_userns import IdMap, IdMaps

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
CAPABILITY = "security.capability"
OURS = "trusted.lxc_userns."
DEVICE = OURS + "device"
KEPT = OURS + "capability"
NO_ID = 2**32 - 1
IMMUTABLE, APPEND = 0x10, 0x20
UNMAPPED = 70000
LONG_NAME = b"n" * 255
# A moment whose parts all tell if one of them is lost.
TIME = 1_234_567_890_123_456_789


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Encode (tag, permissions, qualifier)."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry) for entry in entries
    )


FULL_ACL = acl(
    (0x01, 7, NO_ID),
    (0x02, 6, 0),
    (0x02, 5, 1000),
    (0x02, 4, UNMAPPED),
    (0x04, 5, NO_ID),
    (0x08, 6, 5),
    (0x08, 4, 2000),
    (0x10, 7, NO_ID),
    (0x20, 0, NO_ID),
)
#: cap_net_raw and cap_net_bind_service, effective and permitted.
CAPS = struct.pack("<5I", 0x02000001, 0x2400, 0, 0, 0)


def caps3(root: int) -> bytes:
    """Version 3 of the same."""
    return struct.pack("<6I", 0x03000001, 0x2400, 0, 0, 0, root)


@dataclass(frozen=True)
class Inode:
    """All that can be seen of an inode but its change time."""

    number: tuple[int, int]
    mode: int
    uid: int
    gid: int
    rest: tuple[object, ...]
    flags: int
    content: bytes
    xattrs: dict[str, bytes]


Snapshot = dict[bytes, Inode]
Ids = Callable[[int], int]


def maps(text: str) -> IdMaps:
    """ID maps of one entry, the same for both kinds."""
    return IdMaps(IdMap.parse(text), IdMap.parse(text))


def ids(text: str) -> Ids:
    """Return what becomes of an owner by these maps."""
    guest, host, count = map(int, text.split(":"))
    return mapped((guest, host, count))


def build(root: Path, *, small: bool = False) -> None:
    """Fill a directory; owners are guest IDs, some of them unmapped.

    :param small: leave out what is only more of the same.
    """
    here = os.fsencode(root)

    def make(
        name: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0
    ) -> bytes:
        path = here + b"/" + name
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL)
        os.write(descriptor, b"content of " + name[:20])
        os.close(descriptor)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        return path

    def directory(name: bytes, mode: int, uid: int = 0, gid: int = 0) -> bytes:
        path = here + b"/" + name
        os.mkdir(path)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        return path

    other = directory(b"other", 0o755)
    make(b"plain", 0o600, 1000, 2000)
    links = [
        make(b"suid", 0o4755),
        make(b"sgid", 0o2755, 0, 5),
        make(b"locking", 0o2644, 1000, 5),
        make(b"both", 0o6711, 65533, 65534),
        make(b"nobody", 0o644, 65534, 65534),
        make(b"strange", 0o4755, UNMAPPED, 5),
        make(b"stranger", 0o644, 5, UNMAPPED),
    ]
    directory(b"shared", 0o3775, 0, 5)
    directory(b"tmp", 0o1777)
    cap2 = make(b"cap2", 0o755)
    os.setxattr(cap2, CAPABILITY, CAPS)
    cap3 = make(b"cap3", 0o755, 1000)
    os.setxattr(cap3, CAPABILITY, caps3(1000))
    suid_cap = make(b"suid-cap", 0o4755, 1, 1)
    os.setxattr(suid_cap, CAPABILITY, CAPS)
    kept_cap = make(b"kept-cap", 0o755, UNMAPPED, UNMAPPED)
    os.setxattr(kept_cap, CAPABILITY, CAPS)
    with_acl = make(b"acl", 0o4750, 1000, 1000)
    os.setxattr(with_acl, ACCESS, FULL_ACL)
    acl_directory = directory(b"acl-directory", 0o2770, 0, 5)
    os.setxattr(acl_directory, ACCESS, FULL_ACL)
    os.setxattr(acl_directory, DEFAULT, FULL_ACL)
    if not small:
        os.setxattr(make(b"user-xattr"), "user.test", b"\0\xff")
        sparse = make(b"sparse", 0o600)
        os.truncate(sparse, 50 << 20)
        os.symlink(b"/etc", here + b"/to-etc")
        for name in (b"line\nbreak", b"\xff\xfe invalid", LONG_NAME):
            make(name, 0o4711, 7, 7)
        os.mknod(here + b"/block", stat.S_IFBLK | 0o600, os.makedev(7, 99))
        links += [cap2, here + b"/block"]
        os.mknod(here + b"/whiteout", stat.S_IFCHR, 0)
    os.symlink(b"nowhere", here + b"/dangling")
    links += [here + b"/dangling", suid_cap, with_acl]
    os.lchown(here + b"/dangling", 1000, 1000)
    os.mknod(here + b"/char", stat.S_IFCHR, os.makedev(1, 3))
    os.chown(here + b"/char", 1000, 5)
    os.chmod(here + b"/char", 0o6666)
    os.mkfifo(here + b"/fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(here + b"/socket")
    for path in links:
        name = b"link-" + os.path.basename(path)
        os.link(path, other + b"/" + name, follow_symlinks=False)
    flagged = [
        (make(b"immutable", 0o4755), IMMUTABLE),
        (make(b"append", 0o644, 5, 5), APPEND),
        (directory(b"immutable-directory", 0o755), IMMUTABLE),
    ]
    make(b"immutable-directory/inside")
    os.setxattr(flagged[0][0], CAPABILITY, CAPS)
    stamp(root)
    for path, flags in flagged:
        set_flags(path, flags)


def stamp(root: Path) -> None:
    """Give every inode its own times."""
    number = 0
    for base, directories, files in os.walk(os.fsencode(root), topdown=False):
        for name in (*directories, *files, b"."):
            number += 1
            times = (TIME + number * 10**9, TIME + number)
            path = os.path.join(base, name)
            os.utime(path, ns=times, follow_symlinks=False)


@contextmanager
def opened(path: bytes | str | Path) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOATIME
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def get_flags(fd: int) -> int:
    buffer = fcntl.ioctl(fd, 0x80086601, bytes(8))
    return int.from_bytes(buffer[:4], "little")


def set_flags(path: bytes | str | Path, flags: int) -> None:
    with opened(path) as fd:
        value = get_flags(fd) & ~(IMMUTABLE | APPEND) | flags
        fcntl.ioctl(fd, 0x40086602, struct.pack("=q", value))


def snapshot(root: Path) -> Snapshot:
    """Look at every inode, and leave no trace of the looking."""
    top = os.fsencode(root)
    found = {}
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        inode = found[path] = look_at(top + path)
        if stat.S_ISDIR(inode.mode):
            # Not os.walk(), which follows links and so marks them as read.
            with opened(top + path) as fd:
                names = map(os.fsencode, os.listdir(fd))
                waiting += [path + b"/" + name for name in names]
    return found


def look_at(path: bytes) -> Inode:
    st = os.lstat(path)
    flags, content = 0, b""
    if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
        with opened(path) as fd:
            flags = get_flags(fd)
            if stat.S_ISREG(st.st_mode):
                with open(fd, "rb", closefd=False) as stream:
                    digest = hashlib.file_digest(stream, "sha256")
                content = digest.digest()
    elif stat.S_ISLNK(st.st_mode):
        content = os.readlink(path)
        times = (st.st_atime_ns, st.st_mtime_ns)
        os.utime(path, ns=times, follow_symlinks=False)
    names = os.listxattr(path, follow_symlinks=False)
    # A note beside capabilities may need a block on ext4.
    blocks = 0 if CAPABILITY in names else st.st_blocks
    return Inode(
        (st.st_dev, st.st_ino),
        st.st_mode,
        st.st_uid,
        st.st_gid,
        (
            st.st_nlink,
            st.st_rdev,
            (st.st_size, blocks) if stat.S_ISREG(st.st_mode) else 0,
            st.st_atime_ns,
            st.st_mtime_ns,
        ),
        flags,
        content,
        {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in names
            # XFS shows its own form of ACLs as well.
            if not name.startswith("trusted.SGI_")
        },
    )


def change_times(root: Path, seen: Snapshot) -> list[int]:
    """When each inode was last changed; a snapshot changes links."""
    top = os.fsencode(root)
    return [os.lstat(top + path).st_ctime_ns for path in sorted(seen)]


def without_notes(seen: Snapshot) -> Snapshot:
    """Leave out the state on the root directory, and nothing else."""
    root = dict(seen[b""].xattrs)
    root.pop(OURS + "state", None)
    return {**seen, b"": replace(seen[b""], xattrs=root)}


def notes(seen: Snapshot) -> list[tuple[bytes, str]]:
    """Return the notes of a shift, which stay on device nodes."""
    return [
        (path, name)
        for path, inode in seen.items()
        for name in inode.xattrs
        if name.startswith(OURS) and name not in (DEVICE, KEPT)
    ]


def expected(seen: Snapshot, uid: Ids, gid: Ids) -> Snapshot:
    """Return a snapshot with translated owners.

    :param uid: ``int`` for the tree as it was before.
    """

    def translate(inode: Inode) -> Inode:
        if is_device(inode):
            return inode if uid is int else sealed(inode)
        xattrs = {
            name: expected_xattr(name, value, uid, gid)
            for name, value in inode.xattrs.items()
        }
        stays = uid is not int and uid(inode.uid) == inode.uid
        if CAPABILITY in xattrs and stays:
            # The owner does not tell that they are shifted.
            xattrs[KEPT] = b"shifted"
        return replace(
            inode, uid=uid(inode.uid), gid=gid(inode.gid), xattrs=xattrs
        )

    return {path: translate(inode) for path, inode in seen.items()}


def is_device(inode: Inode) -> bool:
    """Whether an inode is a device node, which a shift gives to no one."""
    kind = stat.S_IFMT(inode.mode)
    return kind == stat.S_IFBLK or (
        kind == stat.S_IFCHR and inode.rest[1] != 0
    )


def sealed(inode: Inode) -> Inode:
    """A device node that is root's alone, and says what it was."""
    mode = stat.S_IMODE(inode.mode)
    if (inode.uid, inode.gid, mode & 0o077) == (0, 0, 0):
        return inode
    note = f"{inode.uid} {inode.gid} {mode:o}".encode()
    return replace(
        inode,
        uid=0,
        gid=0,
        mode=stat.S_IFMT(inode.mode) | mode & 0o700,
        xattrs={**inode.xattrs, DEVICE: note},
    )


def expected_xattr(name: str, value: bytes, uid: Ids, gid: Ids) -> bytes:
    if name in (ACCESS, DEFAULT):
        kinds = {0x02: uid, 0x08: gid}
        return acl(
            *(
                (tag, bits, kinds.get(tag, int)(number))
                for tag, bits, number in struct.iter_unpack("<HHI", value[4:])
            )
        )
    if name == CAPABILITY:
        words = struct.unpack(f"<{len(value) // 4}I", value)
        root = uid(words[5] if len(words) == 6 else 0)
        return caps3(root) if root else CAPS
    return value


def mapped(*entries: tuple[int, int, int]) -> Ids:
    """The function of a map: guest IDs to host IDs, all others as they are."""

    def shift(number: int) -> int:
        for guest, host, count in entries:
            if guest <= number < guest + count:
                return host + number - guest
        return number

    return shift
