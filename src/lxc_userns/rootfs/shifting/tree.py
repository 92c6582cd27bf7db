# SPDX-License-Identifier: Apache-2.0
"""The root directory of a tree: opened once, locked, and remembered on."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress

from lxc_userns.exceptions import ExposedTreeError, RootfsError, reason_of
from lxc_userns.linux import inode_flags, locks, mount_api, mounts, safe_path
from lxc_userns.linux.fd import owned
from lxc_userns.rootfs.shifting import journal
from lxc_userns.rootfs.shifting.state import STATE, State, Work
from lxc_userns.rootfs.shifting.walk import open_directory
from lxc_userns.rootfs.shifting.worker_pool import WorkerError
from lxc_userns.text import printable

#: Seconds to wait for another process that works on the tree: long enough
#: for the workers of a killed one to notice that they are alone.
_PATIENCE = 5.0

#: Reason and remedy for a subvolume in which an owner would have to change.
READ_ONLY = (
    "a read-only subvolume, in which no owner can change; make it writable "
    "(btrfs property set PATH ro false), delete it, or move it out of the tree"
)
_REASONS = {
    errno.ENOENT: "no such directory",
    errno.ENOTDIR: "not a directory, or a symbolic link",
    errno.ELOOP: "not a directory, or a symbolic link",
    errno.EROFS: "read-only filesystem",
    errno.EPERM: "operation not permitted (is this root?)",
    errno.EACCES: "permission denied (is this root?)",
    errno.EOPNOTSUPP: (
        "the filesystem keeps no trusted.* extended attributes, so that an "
        "interrupted shift could not be resumed"
    ),
    errno.ENOSPC: "no space left for an extended attribute",
}


class Tree:
    """An opened root directory; see :func:`open_tree`.

    :param path: its path as the caller knows it.

    ``fd`` is its descriptor, on a mount of our own; ``given`` is one on the
    mount where it was found, and ``lock`` that of the lock.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = self.given = self.lock = -1

    @property
    def proc_path(self) -> str:
        """Return a path that leads to the open directory and nowhere else."""
        return f"/proc/self/fd/{self.fd}"

    def read_state(self) -> State | None:
        """Read the state of the tree; None if it was never shifted.

        :raises RootfsError: if the attribute is malformed.
        """
        try:
            return State.decode(os.getxattr(self.fd, STATE))
        except ValueError as err:
            raise RootfsError(self.path, f"attribute {STATE}: {err}") from err
        except OSError as err:
            if err.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return None
            raise

    def write_state(self, state: State) -> None:
        """Remember."""
        os.setxattr(self.fd, STATE, state.encode())

    def write_state_again(self, state: State) -> int:
        """Remember once more, and return when that was, in ns.

        The time is that of the filesystem's clock.
        """
        data = state.encode()
        if os.getxattr(self.fd, STATE) == data:
            # The same value would change nothing, and no time either.
            data += b" "
        os.setxattr(self.fd, STATE, data)
        return os.fstat(self.fd).st_ctime_ns

    def begin(self, state: State) -> None:
        """Remember what is to be done now, if there is room for notes on it.

        :raises OSError: ENOSPC if there is none; nothing has changed.
        """
        # Nothing was under way: they are none of ours.
        journal.forget(self.fd)
        # Blanks after JSON mean nothing, and all of it is written or none.
        padded = state.encode() + b" " * journal.ROOM
        os.setxattr(self.fd, STATE, padded)

    def forget(self) -> None:
        """Remember nothing."""
        try:
            os.removexattr(self.fd, STATE)
        except OSError as err:
            if err.errno != errno.ENODATA:
                raise

    def work(self) -> Work | None:
        """Return what has begun and not ended, None if that is not known."""
        with suppress(OSError, RootfsError):
            state = self.read_state()
            return None if state is None else state.work
        return None

    def check_unflagged(self) -> None:
        """Refuse an immutable root directory: it could keep no notes.

        :raises RootfsError: if it is immutable or append-only.
        """
        flags = 0
        with suppress(OSError):  # A filesystem without flags.
            flags = inode_flags.get(self.fd)
        if flags & (inode_flags.FS_IMMUTABLE_FL | inode_flags.FS_APPEND_FL):
            raise RootfsError(
                self.path,
                "the root directory itself is immutable or append-only; "
                "chattr -i -a it first",
            )

    def check_writable(self, read_only: Collection[str]) -> None:
        """Check that what has to change is in no read-only subvolume.

        :param read_only: paths of those in which something has, as the
            kernel names them.
        :raises RootfsError: naming the first.
        """
        for path in sorted(read_only):
            raise RootfsError(self.show(path), READ_ONLY)

    def check_only_root_can_reach(self) -> None:
        """Check that only root can reach it.

        :raises ExposedTreeError: if others can.
        """
        # Loaded late: most shifts do without.
        from lxc_userns.rootfs import exposure

        try:
            exposure.check_only_root_can_reach(self.given, self.path)
        except ExposedTreeError as err:
            raise ExposedTreeError(
                self.path,
                "its files would get IDs that are not its container's, as of "
                "users of the host, which needs a tree that only root can "
                f"reach: {err.reason}",
            ) from err

    def show(self, kernel_path: str) -> str:
        """Return a path below the root as the caller knows it, for messages.

        :param kernel_path: as ``/proc/PID/cwd`` gives it.
        """
        root = os.readlink(self.proc_path).rstrip("/")
        below = kernel_path.rstrip("/").removeprefix(root)
        return self.path + printable(below)


@contextmanager
def open_tree(
    path: str | os.PathLike[str], *, shared: bool, fd: int | None = None
) -> Iterator[Tree]:
    """Open and lock a root directory.

    It is opened through a detached copy of its mount without submounts, so
    that whatever is mounted below the path is out of reach.

    :param path: a directory, not the host's own root; neither it nor a
        directory above is a link, and no one but root can replace it unless
        it is only read.
    :param shared: whether others may read at the same time.
    :param fd: descriptor of the directory, if it is open; the path is then
        only for messages.
    :raises RootfsError: for every OSError in the body too.
    """
    # A slash at the end would follow a link.
    name = os.fspath(path)
    name = name.rstrip("/") or name[:1]
    tree = Tree(printable(name))
    with ExitStack() as stack, translated(tree):
        given = _open(name, shared) if fd is None else os.dup(fd)
        tree.given = stack.enter_context(owned(given))
        if not stat.S_ISDIR(os.fstat(given).st_mode):
            raise RootfsError(
                tree.path, "not a directory; give a root filesystem"
            )
        if os.path.samestat(os.fstat(given), os.stat("/")):
            raise RootfsError(
                tree.path,
                "is the root directory of this host; give a container's",
            )
        mount = _without_submounts(tree.path, given)
        if mount != given:
            stack.enter_context(owned(mount))
        root = owned(open_directory(".", dir_fd=mount))
        tree.fd = stack.enter_context(root)
        tree.lock = _lock(tree, shared, stack)
        yield tree


def _open(path: str, shared: bool) -> int:
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    # Others could replace what is only read, and see nothing of it.
    trust = safe_path.Trust(any_owner=shared)
    return safe_path.open_fd(os.path.abspath(path), trust)


def _without_submounts(path: str, fd: int) -> int:
    try:
        mount = mount_api.clone_mount(fd)
        # Before Linux 5.12, only opening the directories spares their times.
        with suppress(OSError):
            mount_api.set_attributes(mount, mount_api.MOUNT_ATTR_NOATIME)
        return mount
    except OSError:
        # A mount that is detached, as of an image, cannot be copied before
        # Linux 6.15; nothing is mounted below it.
        if mounts.find_mount(fd) is None:
            return fd
        below = mounts.points_below(os.readlink(f"/proc/self/fd/{fd}"))
    if below:
        raise RootfsError(
            path,
            "filesystems are mounted below it; unmount them first: "
            + ", ".join(below),
        )
    return fd


def _lock(tree: Tree, shared: bool, stack: ExitStack) -> int:
    # Workers inherit it: as long as one of a killed process lives, no one
    # else gets in.
    lock = locks.held_for("tree", tree.fd, shared=shared, limit=_PATIENCE)
    try:
        return stack.enter_context(lock)
    except TimeoutError:
        raise RootfsError(
            tree.path,
            "another process is shifting or reading it; try again once that "
            "has ended",
        ) from None


@contextmanager
def translated(tree: Tree) -> Iterator[None]:
    """Raise RootfsError for every OSError in the body."""
    try:
        yield
    except OSError as err:
        path = tree.path
        if isinstance(err, WorkerError):
            path = tree.show(str(err.filename))
        reason = _REASONS.get(err.errno or 0, reason_of(err))
        raise RootfsError(path, reason) from err


@contextmanager
def telling_if_half_done(tree: Tree) -> Iterator[None]:
    """Say in the text of an error of the body that the tree is half-done."""
    try:
        with translated(tree):
            yield
    except RootfsError as err:
        work = tree.work()
        # The others are raised before anything has changed.
        if work is None or len(err.args) != 2:
            raise
        back = "shift for its ID maps" if work.maps is None else "unshift"
        reason = (
            f"{err.reason}; the tree is half-done: run the same again to "
            f"resume, or rootfs {back} to go back"
        )
        raise type(err)(err.path, reason) from err
