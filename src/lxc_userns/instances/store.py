# SPDX-License-Identifier: Apache-2.0
"""Store of the records of instances, kept across reboots.

One JSON file for each instance below ``state_path``, replaced as a whole, so
that a crash leaves the old record or the new one.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    suppress,
)
from pathlib import Path

from lxc_userns import own_paths
from lxc_userns.exceptions import InstanceError
from lxc_userns.instances import unknown_note
from lxc_userns.instances.codec import FORMAT, NewerError, decode, encode
from lxc_userns.instances.damaged import DamagedRecord, salvage
from lxc_userns.instances.record import InstanceRecord, check_name
from lxc_userns.linux import directory, locks
from lxc_userns.linux.fd import open_file

_SUFFIX = ".json"
# Whatever is there: a FIFO is not waited for.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: What keeps one file from being read, and no others.
_UNREADABLE = (errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENXIO)


class InstanceStore:
    """The records of a host.

    :param state_path: directory that has to be ours and closed to others;
        it is made when first used, and checked at every use.
    """

    def __init__(self, state_path: str) -> None:
        self._path = Path(state_path)

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Keep other threads and processes from the instance ``name``.

        Not reentrant.

        :raises InstanceError: if it is not a name.
        :raises LockTimeoutError: if others hold the lock for too long.
        """
        check_name(name)
        return self._lock(f"instance-{name}")

    def lock_container(self, name: str) -> AbstractContextManager[None]:
        """Lock like :meth:`lock`, for several steps that take that lock.

        No hook of libvirt takes this one: under it, libvirtd may be asked.

        :raises InstanceError: if it is not a name.
        :raises LockTimeoutError: if others hold the lock for too long.
        """
        check_name(name)
        return self._lock(f"container-{name}", is_for_hooks=False)

    def sweep_locks(self) -> None:
        """Remove what is left of locks whose holders were killed.

        :raises ConfigError: if the state path cannot be used.
        """
        found = directory.open_subdir(str(self._path), 0o700, "locks")
        with self._translated(), found as fd:
            if fd is not None:
                locks.sweep(fd)

    @contextmanager
    def lock_trees(self, fds: Iterable[int]) -> Iterator[None]:
        """Keep others from shifting trees, or taking them in use.

        :param fds: descriptors of directories and images.
        :raises LockTimeoutError: if others hold a lock for too long.
        """
        # Always in the same order, and each once, or two could wait for
        # each other.
        inodes = {
            (status.st_dev, status.st_ino) for status in map(os.fstat, fds)
        }
        with ExitStack() as stack:
            for device, inode in sorted(inodes):
                lock = self._lock(f"rootfs-{device}-{inode}")
                stack.enter_context(lock)
            yield

    @contextmanager
    def _lock(self, name: str, *, is_for_hooks: bool = True) -> Iterator[None]:
        with ExitStack() as stack:
            with self._translated():
                made = directory.make_subdir(
                    str(self._path), 0o700, "locks", 0o700
                )
                lock = locks.held(
                    stack.enter_context(made), name, is_for_hooks=is_for_hooks
                )
                with locks.translated(name):
                    stack.enter_context(lock)
            yield

    def load(self, name: str) -> InstanceRecord | None:
        """Return the record of an instance, None if there is none.

        :raises InstanceError: if it is not a name, or the record is damaged
            or of a newer version.
        :raises ConfigError: if the state path cannot be used.
        """
        check_name(name)
        with self._present() as fd:
            found = None if fd is None else self._read(fd, name)
        if isinstance(found, DamagedRecord):
            raise InstanceError(name, found.reason)
        return found

    def load_all(self) -> list[InstanceRecord | DamagedRecord]:
        """Return all records, by name, and the rests of damaged ones.

        :raises ConfigError: if the state path cannot be used.
        """
        with self._present() as fd:
            if fd is None:
                return []
            names = sorted(
                name.removesuffix(_SUFFIX)
                for name in os.listdir(fd)
                if name.endswith(_SUFFIX) and not name.startswith(".")
            )
            found = [self._read(fd, name) for name in names]
        return [record for record in found if record is not None]

    def save(self, record: InstanceRecord) -> None:
        """Write a record to disk, for good.

        :raises ConfigError: if the state path cannot be used.
        """
        with self._made("instances") as fd:
            text = json.dumps(encode(record), indent=1)
            file = record.name + _SUFFIX
            # Written for good before, and to do that again takes its time.
            with suppress(OSError):
                is_same = _read_text(fd, file) == text
                if is_same and self.unknown_since(record.name) is None:
                    return
            directory.replace_file(fd, file, text)

    def note_verified(self, name: str) -> None:
        """Note that an instance runs as its record says, now.

        :raises ConfigError: if the state path cannot be used.
        """
        with self._present() as fd, suppress(FileNotFoundError):
            if fd is not None:
                os.utime(name + _SUFFIX, dir_fd=fd, follow_symlinks=False)

    def last_written(self, name: str) -> float | None:
        """Return when a record was last written, or noted as verified.

        Nothing else is written to that of a container that runs.

        :returns: seconds of Unix time; None if there is none.
        :raises ConfigError: if the state path cannot be used.
        """
        with self._present() as fd, suppress(FileNotFoundError):
            if fd is not None:
                found = os.lstat(name + _SUFFIX, dir_fd=fd)
                return found.st_mtime
        return None

    def remove(self, name: str) -> None:
        """Forget an instance; nothing happens if it is not known.

        :raises InstanceError: if it is not a name.
        :raises ConfigError: if the state path cannot be used.
        """
        check_name(name)
        with self._present() as fd:
            if fd is None:
                return
            try:
                os.unlink(name + _SUFFIX, dir_fd=fd)
            except FileNotFoundError:
                return
            os.fsync(fd)

    def unknown_since(self, name: str) -> int | None:
        """Return when libvirt was first seen not to know an instance.

        :returns: seconds of Unix time; None if that is not noted of the
            record as it is.
        """
        with self._opened(name) as fd:
            return None if fd is None else unknown_note.read(fd)

    def mark_unknown(self, name: str, now: int) -> None:
        """Note that libvirt may not know an instance, unless that is noted.

        The note goes when the record is written anew, as by who prepares the
        instance again.

        :param now: in seconds of Unix time.
        :raises ConfigError: if the filesystem keeps no extended attributes.
        """
        with self._opened(name) as fd:
            if fd is not None:
                unknown_note.write(fd, now)

    def confirm(self, name: str) -> None:
        """Note that libvirt knows an instance."""
        with self._opened(name) as fd:
            if fd is not None:
                unknown_note.remove(fd)

    @contextmanager
    def _opened(self, name: str) -> Iterator[int | None]:
        """Open the file of a record, None if there is none."""
        check_name(name)
        with self._present() as place, ExitStack() as stack:
            fd = None
            if place is not None:
                with suppress(FileNotFoundError):
                    file = open_file(name + _SUFFIX, _READ, dir_fd=place)
                    fd = stack.enter_context(file)
            yield fd

    def _read(
        self, fd: int, name: str
    ) -> InstanceRecord | DamagedRecord | None:
        file = f"{self._path}/instances/{name}{_SUFFIX}"
        try:
            text = _read_text(fd, name + _SUFFIX)
        except FileNotFoundError:
            return None
        except OSError as err:
            if err.errno not in _UNREADABLE:
                raise
            reason = _damaged(file, err.strerror)
            return DamagedRecord(name, reason)
        try:
            # As it is written; to others a lost bit would be another path.
            text.encode("ascii")
            return decode(name, json.loads(text))
        except MemoryError:
            raise
        except Exception as err:
            reason = _newer(file, err) or _damaged(file, err)
            return salvage(name, reason, text)

    @contextmanager
    def _present(self) -> Iterator[int | None]:
        """Yield the directory of the records, None if it is not there yet."""
        with (
            self._translated(),
            directory.open_subdir(str(self._path), 0o700, "instances") as fd,
        ):
            yield fd

    @contextmanager
    def _made(self, name: str) -> Iterator[int]:
        with (
            self._translated(),
            directory.make_subdir(str(self._path), 0o700, name, 0o700) as fd,
        ):
            yield fd

    def _translated(self) -> AbstractContextManager[None]:
        return own_paths.translated("state_path", str(self._path))


def _read_text(fd: int, name: str) -> str:
    with open(os.open(name, _READ, dir_fd=fd), "rb") as stream:
        return stream.read().decode("utf-8", "surrogateescape")


def _newer(file: str, err: Exception) -> str:
    if not isinstance(err, NewerError):
        return ""
    return (
        f"its record {file} is of a newer version of lxc-userns (format "
        f"{err}, this version reads up to {FORMAT}); use that version"
    )


def _damaged(file: str, err: object) -> str:
    what = f"it lacks {err}" if isinstance(err, KeyError) else err
    return (
        f"its record {file} is damaged: {what}; repair it, or restore a "
        "backup of it: until then its host IDs and files stay taken"
    )
