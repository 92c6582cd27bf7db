# SPDX-License-Identifier: Apache-2.0
"""Worker of a shift: the process that walks; the worker pool starts it.

It loads little, to start in a few milliseconds, and keeps the loop over plain
inodes (no attribute, no set-ID bit, no second link) short: a status, a look
for attributes and a chown each, which is what the speed of it all hangs on.
"""

from __future__ import annotations

import os
import stat

from lxc_userns.rootfs.shifting import (
    acl,
    device,
    filecaps,
    inode,
    ipc,
    kernel_paths,
)
from lxc_userns.rootfs.shifting.journal import Journal, NoRoomYetError
from lxc_userns.rootfs.shifting.kept_filecaps import KEPT
from lxc_userns.rootfs.shifting.link_counts import LinkCounts
from lxc_userns.rootfs.shifting.owners import Ids, Owners
from lxc_userns.rootfs.shifting.subvolumes import ReadOnlySubvolumes
from lxc_userns.rootfs.shifting.walk import ChangedError, Walk, open_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Inodes between two looks at the queue.
_STRIDE = 256
#: Names of one directory visited in between.
_MOST_AT_ONCE = 1024
#: Findings that one worker keeps.
_MOST_FINDINGS = 100
_DEVICES = frozenset((stat.S_IFCHR, stat.S_IFBLK))
_RELEVANT = frozenset(
    (acl.ACCESS, acl.DEFAULT, filecaps.NAME, inode.JOURNAL, KEPT)
)


class _VisitError(Exception):
    """A system call on one inode failed, and it is half-done.

    Not an OSError, for which the loop would visit the inode once more: what
    is left of it then no longer tells what it was.
    """

    def __init__(self, err: OSError, name: bytes) -> None:
        super().__init__(err, name)
        self.errno = err.errno
        self.strerror = err.strerror
        self.filename = name


class Worker:
    """One process of a worker pool.

    :param job: what to do, in plain types; see ``_WorkerPool._job``.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._root: int = job["root"]
        self._acts: bool = job["acts"]
        self._life: int = job["life"]
        self._shares: bool = job["shares"]
        self._reports: int = job["reports"]
        self._queue = ipc.Queue(*job["queue"])
        self._shared_flags = ipc.SharedFlags(job["shared_flags"])
        self._owners = Owners(Ids(job["uid"]), Ids(job["gid"]))
        self._devices: device.PlainDevices = job["devices"]
        self._journal = Journal(self._root, job["left"], self._shared_flags)
        self._since: int | None = job["since"]
        self._read_only = ReadOnlySubvolumes(self._root)
        self._seeks_read_only: bool = job["seeks_read_only"]
        self._inodes = self._shifted = 0
        self._unmapped = self._unmapped_names = 0
        self._devices_met = self._split = self._missed = self._put_off = 0
        # Whether the directory at hand has something that would change.
        self._found = False
        self._findings: list[tuple[str, str]] = []
        self._links = LinkCounts()
        self._trail: bytes | None = b""

    def run(self) -> dict[str, Any]:
        """Walk directories from the queue until there are none."""
        while True:
            packed = self._queue.get(self._life)
            if packed is None:
                return self._result()
            try:
                self._visit_below(*packed)
            except ChangedError:
                self._missed += 1
            ipc.report(self._reports, ipc.DONE)

    def _visit_below(self, relpath: bytes, *subdirs: bytes) -> None:
        fd = open_below(self._root, relpath)
        walk = Walk(fd, relpath, subdirs, self._since)
        try:
            self._visit(walk)
        finally:
            self._missed += walk.missed

    def _result(self) -> dict[str, Any]:
        uids, gids = self._owners.uids, self._owners.gids
        return {
            "inodes": self._inodes,
            "shifted": self._shifted,
            "unmapped": self._unmapped,
            "unmapped_names": self._unmapped_names,
            "devices": self._devices_met,
            "split": self._split,
            "links": self._links.plain(),
            "uids": list(uids.unmapped),
            "gids": list(gids.unmapped),
            "blocks": list(uids.blocks | gids.blocks),
            "findings": self._findings,
            "missed": self._missed,
            "put_off": self._put_off,
            "read_only": list(self._read_only.paths),
        }

    def _visit(self, walk: Walk) -> None:
        walked = 0
        for names, subdirs in walk:
            self._trail = walk.relpath
            for start in range(0, len(names), _MOST_AT_ONCE):
                some = names[start : start + _MOST_AT_ONCE]
                self._visit_names(some, subdirs)
                walked += len(some)
                if walked >= _STRIDE:
                    self._look_up(walk, walked)
                    walked = 0
            if self._seeks_read_only:
                self._seek_read_only()
        ipc.report(self._reports, ipc.WALKED, walked)

    def _visit_names(
        self, names: list[bytes], subdirs: list[tuple[bytes, int | None]]
    ) -> None:
        lstat, listxattr = os.lstat, os.listxattr
        lchown = os.lchown if self._acts else self._find_owner
        owners, left = self._owners, self._journal.left
        others = still = unmapped = 0
        uid = gid = None
        for name in names:
            try:
                st = lstat(name)
                mode = st.st_mode
                kind = mode & 0o170000
                if kind == 0o040000:
                    subdirs.append((name, st.st_size))
                elif (
                    st.st_nlink > 1
                    or mode & 0o6000
                    or (kind != 0o100000 and kind in _DEVICES)
                ):
                    others += self._visit_special(name)
                    continue
                if left and st.st_ino in left:
                    others += self._visit_special(name)
                    continue
                if kind != 0o120000:
                    there = listxattr(name, follow_symlinks=False)
                    if there and not _RELEVANT.isdisjoint(there):
                        others += self._visit_special(name)
                        continue
                if st.st_uid != uid or st.st_gid != gid:
                    # Most inodes have the owner of the one before.
                    uid, gid = st.st_uid, st.st_gid
                    owner = owners[uid, gid]
                    new_uid, new_gid = owner.uid, owner.gid
                    moves, outside = owner.moves, not owner.mapped
                if moves:
                    lchown(name, new_uid, new_gid)
                else:
                    still += 1
                unmapped += outside
            except OSError:
                # Gone, or immutable, or what the kernel will say again.
                others += self._visit_special(name)
        self._unmapped += unmapped
        self._inodes += len(names) - others
        self._shifted += len(names) - others - still

    def _look_up(self, walk: Walk, walked: int) -> None:
        """Report, and leave work for others."""
        if self._shared_flags.is_cancelled:
            raise EOFError
        ipc.report(self._reports, ipc.WALKED, walked)
        # So that whoever runs out of work finds some at once.
        if self._shares and self._queue.is_empty():
            walk.share(self._give)

    def _give(self, packed: Sequence[bytes]) -> bool:
        # The report goes first, or the pool could believe for a moment that
        # nothing is left to do.
        ipc.report(self._reports, ipc.GIVEN)
        given = self._queue.put(packed)
        if not given:
            ipc.report(self._reports, ipc.DONE)
        return given

    def _visit_special(self, name: bytes) -> int:
        """Visit an inode with care; returns 1, as it counts by itself."""
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            self._missed += 1
            return 1
        try:
            self._visit_open(name, fd)
        except NoRoomYetError:
            self._put_off += 1
        except OSError as err:
            raise _VisitError(err, name) from err
        finally:
            os.close(fd)
        return 1

    def _visit_open(self, name: bytes, fd: int) -> None:
        st = os.fstat(fd)
        if st.st_nlink == 1 or stat.S_ISDIR(st.st_mode):
            self._visit_inode(name, fd, st)
            return
        # Two workers on one inode could undo each other's work.
        self._shared_flags.lock(st.st_ino)
        try:
            self._visit_inode(name, fd, os.fstat(fd))
        finally:
            self._shared_flags.unlock(st.st_ino)

    def _visit_inode(self, name: bytes, fd: int, st: os.stat_result) -> None:
        path = f"/proc/self/fd/{fd}"
        if device.is_device(st):
            self._visit_device(name, path, st)
            return
        change = self._plan(path, st)
        if self._acts and change:
            self._tell_of_loss(name, change)
            self._journal.apply(path, st, change)
        elif not self._acts:
            self._find_wrong(name, st, change)
        if change and st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
            # Only where an overlay copies it up do the others lose it.
            self._split += (
                not self._acts or os.stat(path).st_nlink < st.st_nlink
            )
        self._count(name, st, bool(change), change)

    def _plan(self, path: str, st: os.stat_result) -> inode.Change:
        xattrs = inode.read_xattrs(path)
        pending = self._journal.pending(st)
        if pending is not None:
            xattrs.setdefault(inode.JOURNAL, pending)
        return inode.plan(st, xattrs, self._owners, to_host=self._devices[2])

    def _visit_device(
        self, name: bytes, path: str, st: os.stat_result
    ) -> None:
        # No transit range may be where a device node is.
        self._owners.uids.qualifier(st.st_uid)
        self._owners.gids.qualifier(st.st_gid)
        change = device.plan(st, device.read_note(path), self._devices)
        if change is not None:
            if self._acts:
                self._tell_of_loss(name, change)
                device.apply(path, change)
            else:
                self._find(
                    name,
                    f"device node of {st.st_uid}:{st.st_gid} with mode "
                    f"{stat.S_IMODE(st.st_mode):04o} should be root's alone",
                )
        self._count(name, st, change is not None, None)

    def _count(
        self,
        name: bytes,
        st: os.stat_result,
        shifted: bool,
        change: inode.Change | None,
    ) -> None:
        """Count an inode when its last name is met.

        :param change: what it needs; None if it is a device node.
        """
        unmapped = change is not None and not change.mapped
        unmapped_names = change is not None and not change.names_mapped
        if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
            link = self._links.meet(st, self._trail, name)
            link.shifted |= shifted
            link.unmapped |= unmapped
            link.unmapped_names |= unmapped_names
            link.is_device = change is None
            if not self._links.drop_if_complete(st):
                return
            shifted, unmapped = link.shifted, link.unmapped
            unmapped_names = link.unmapped_names
        self._devices_met += change is None
        self._inodes += 1
        self._shifted += shifted
        self._unmapped += unmapped
        self._unmapped_names += unmapped_names

    def _find_wrong(
        self, name: bytes, st: os.stat_result, change: inode.Change
    ) -> None:
        if change.owner is not None:
            self._find_owner(name, *change.owner)
        if change.acls:
            self._find(name, "an ACL names IDs that are not shifted")
        if (change.capability or change.drops) and change.owner is None:
            self._find(name, "file capabilities count for another namespace")
        if change.pending:
            self._find(name, "left half-done by an interrupted shift")

    def _tell_of_loss(
        self, name: bytes, change: inode.Change | device.Change
    ) -> None:
        if change.lost:
            self._find(name, inode.LOST)

    def _seek_read_only(self) -> None:
        """Note the subvolume at hand if nothing could change there."""
        st = os.stat(b".")
        if ReadOnlySubvolumes.is_one(st) and self._plan(".", st):
            self._found = True
        if self._found:
            self._read_only.note(st)
        self._found = False

    def _find_owner(self, name: bytes, uid: int, gid: int) -> None:
        self._found = True
        if len(self._findings) < _MOST_FINDINGS:
            st = os.lstat(name)
            self._find(
                name,
                f"owner {st.st_uid}:{st.st_gid} should be {uid}:{gid}",
            )

    def _find(self, name: bytes, reason: str) -> None:
        self._found = True
        if len(self._findings) < _MOST_FINDINGS:
            self._findings.append((kernel_paths.of_name(name), reason))


def work(job: dict[str, Any], output: int) -> None:
    """Do a job and write the result.

    :param job: what to do.
    :param output: descriptor to write the result to.
    """
    try:
        result = Worker(job).run()
    except (BrokenPipeError, EOFError):
        return  # The pool is gone; whoever comes next will resume.
    except (OSError, ValueError, _VisitError) as err:
        number = getattr(err, "errno", None)
        reason = getattr(err, "strerror", None) or str(err)
        result = {"error": (number, reason, kernel_paths.of_error(err))}
    ipc.send(output, result)


def main() -> None:
    """Read a job from standard input, do it, write to standard output."""
    work(ipc.receive(0), output=1)
    # Nothing is left to clean up that the kernel would not do faster.
    os._exit(0)
