# SPDX-License-Identifier: Apache-2.0
"""Records of instances: what each was promised, kept across reboots.

One JSON file for each instance below ``state_path``, replaced as a whole, so
that a crash leaves the old record or the new one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import uuid
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lxc_userns import own_paths
from lxc_userns.arguments import check_type
from lxc_userns.exceptions import InstanceError
from lxc_userns.idmap import IdMap, IdMaps, Kind
from lxc_userns.instances.damaged import DamagedRecord, salvage
from lxc_userns.instances.verified import Verified
from lxc_userns.linux import directory, locks
from lxc_userns.linux.file_identity import FileIdentity
from lxc_userns.linux.fuser import Closed
from lxc_userns.spec.requirements import (
    CAPABILITIES,
    DEFAULT_PROCESSES,
    MOST_PROCESSES,
    Device,
    Mode,
    Requirements,
)
from lxc_userns.spec.rootfs_kind import RootfsKind, parse_kind
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume

_FORMAT = 4
#: What each format did not have yet.
_ADDED: Mapping[int, Mapping[str, Any]] = {
    1: {"reason": "", "archive": None, "volumes": []},
    2: {"needs": Requirements().to_dict(), "devices": [], "mode_reasons": []},
    3: {
        "identities": {},
        "empty": {},
        "verified": None,
        "rootfs_kind": None,
        "max_processes": DEFAULT_PROCESSES,
        "dropped": ["sys_resource"],
        "security_model": None,
    },
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SUFFIX = ".json"
#: What keeps one file from being read, and no others.
_UNREADABLE = (errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENXIO)
_TEXTS = ("uuid", "rootfs", "strategy", "view", "reason")


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """Record of an instance: its promises, and where its files are.

    :param name: name of the instance and of its libvirt domain: a letter or
        digit, then at most 62 letters, digits, ``.``, ``_`` and ``-``.
    :param uuid: UUID of both, in its usual text form.
    :param rootfs: root filesystem, an absolute path without links.
    :param id_maps: its ID maps, None in the host's user namespace.
    :param strategy: how the view is made.
    :param view: the view of the root filesystem, an absolute path.
    :param ready: inode number of the root filesystem's directory, once this
        host has seen to all that is in it; None before. What the tree says
        of itself does not count before, for an image may say anything.
    :param reason: why this strategy was chosen; empty before it was.
    :param archive: what the root filesystem was unpacked from, if it was.
    :param volumes: files of the host that it sees besides.
    :param needs: what it asked for that not every container is to have.
    :param devices: devices of the host among that.
    :param mode_reasons: why it has the mode that it has; empty if it was
        made before that was noted.
    :param identities: of what the host gives it, by path: root filesystem
        and sources of volumes, as they were opened first.
    :param empty: trees in which no user of the host was found, as
        :data:`lxc_userns.rootfs.exposure.Empty`.
    :param verified: the last start of it that was verified, None if there
        was none since it was prepared.
    :param rootfs_kind: what it was given as its root filesystem; None if it
        was made before that was noted.
    :param max_processes: how many processes and threads it may have, 0 to
        4194304; 0 sets no limit.
    :param dropped: capabilities that its domain drops in mode ``private``, by
        libvirt's names, beside those that libvirt drops by itself.
    :param security_model: security module of the kernel by which it is
        confined, as :class:`~lxc_userns.domain.SecLabel` has it; None if
        that was not promised.
    :raises InstanceError: if one of these is anything else.
    """

    name: str
    uuid: str
    rootfs: str
    id_maps: IdMaps | None
    strategy: Strategy
    view: str
    ready: int | None = None
    reason: str = ""
    archive: str | None = None
    volumes: tuple[Volume, ...] = ()
    needs: Requirements = field(default_factory=Requirements)
    devices: tuple[Device, ...] = ()
    mode_reasons: tuple[str, ...] = ()
    identities: Mapping[str, FileIdentity] = field(default_factory=dict)
    empty: Mapping[str, Closed] = field(default_factory=dict)
    verified: Verified | None = None
    rootfs_kind: RootfsKind | None = None
    max_processes: int = DEFAULT_PROCESSES
    dropped: tuple[str, ...] = ()
    security_model: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        check_uuid(self.name, self.uuid)
        if unknown := {*self.dropped} - {*CAPABILITIES}:
            raise InstanceError(
                self.name, f"dropped {unknown}: expected names of capabilities"
            )
        if self.max_processes not in range(MOST_PROCESSES + 1):
            raise InstanceError(
                self.name,
                f"max_processes {self.max_processes}: expected 0 to "
                f"{MOST_PROCESSES}",
            )

    @property
    def mode(self) -> Mode:
        """``private`` with ID maps, ``host`` without."""
        return "host" if self.id_maps is None else "private"

    @property
    def dropped_capabilities(self) -> tuple[str, ...]:
        """Capabilities that its domain drops in the mode that it has."""
        return self.dropped if self.mode == "private" else ()

    @property
    def held_ids(self) -> Iterator[tuple[Kind, range]]:
        """Host IDs of its ID maps, with their kind."""
        if self.id_maps is not None:
            for kind, entry in self.id_maps.entries:
                yield kind, entry.host_ids


def check_name(name: str) -> None:
    """Refuse what cannot be a file name, a host name and a domain name.

    :raises InstanceError: if it is refused.
    """
    check_type("instance", "name", name, str)
    if not _NAME.fullmatch(name):
        raise InstanceError(
            repr(name),
            "not a name: a letter or digit is needed, then at most 62 "
            "letters, digits, '.', '_' or '-'",
        )


def check_uuid(name: str, text: str) -> None:
    """Refuse any other form than ``str(uuid.UUID(...))`` gives.

    :param name: the instance's, for the error.
    :raises InstanceError: if it is refused.
    """
    try:
        valid = str(uuid.UUID(text)) == text
    except ValueError:
        valid = False
    if not valid:
        raise InstanceError(name, f"{text!r} is not a UUID in its usual form")


class InstanceStore:
    """The records of a host.

    :param state_path: directory that has to be ours and closed to others;
        it is made when first used, and checked at every use.
    """

    def __init__(self, state_path: str) -> None:
        self._path = Path(state_path)

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Keep other threads and processes from the instance ``name``.

        Waits for as long as it takes. Not reentrant.

        :raises InstanceError: if it is not a name.
        """
        check_name(name)
        return self._lock(f"instance-{name}")

    def lock_container(self, name: str) -> AbstractContextManager[None]:
        """Lock like :meth:`lock`, for several steps that take that lock.

        :raises InstanceError: if it is not a name.
        """
        check_name(name)
        return self._lock(f"container-{name}")

    @contextmanager
    def lock_trees(self, fds: Iterable[int]) -> Iterator[None]:
        """Keep others from shifting trees, or taking them in use.

        :param fds: descriptors of directories and images.
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
    def _lock(self, name: str) -> Iterator[None]:
        with ExitStack() as stack:
            with self._translated():
                made = directory.make_subdir(
                    str(self._path), 0o700, "locks", 0o700
                )
                lock = locks.held(stack.enter_context(made), name)
                stack.enter_context(lock)
            yield

    def load(self, name: str) -> InstanceRecord | None:
        """The record of an instance, None if there is none.

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
        """All records, by name, and what is left of those that are damaged.

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
            final = record.name + _SUFFIX
            temporary = f".{final}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with open(
                os.open(temporary, flags, 0o600, dir_fd=fd),
                "w",
                encoding="ascii",
            ) as stream:
                json.dump(_encode(record), stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, final, src_dir_fd=fd, dst_dir_fd=fd)
            os.fsync(fd)

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
            return _decode(name, json.loads(text))
        except MemoryError:
            raise
        except Exception as err:
            reason = _newer(file, err) or _damaged(file, err)
            return salvage(name, reason, text)

    @contextmanager
    def _present(self) -> Iterator[int | None]:
        """The directory of the records, None if it is not there yet."""
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


class _NewerError(ValueError):
    """A record has a format that a later version has brought."""


def _read_text(fd: int, name: str) -> str:
    # Whatever is there: a FIFO is not waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=fd), "rb") as stream:
        return stream.read().decode("utf-8", "surrogateescape")


def _newer(file: str, err: Exception) -> str:
    if not isinstance(err, _NewerError):
        return ""
    return (
        f"its record {file} is of a newer version of lxc-userns (format "
        f"{err}, this version reads up to {_FORMAT}); use that version"
    )


def _damaged(file: str, err: object) -> str:
    what = f"it lacks {err}" if isinstance(err, KeyError) else err
    return (
        f"its record {file} is damaged: {what}; repair it, or restore a "
        "backup of it: until then its host IDs and files stay taken"
    )


def _encode(record: InstanceRecord) -> dict[str, Any]:
    maps = record.id_maps
    return {
        "format": _FORMAT,
        "name": record.name,
        "uuid": record.uuid,
        "rootfs": record.rootfs,
        "uid_maps": None if maps is None else str(maps.uid),
        "gid_maps": None if maps is None else str(maps.gid),
        "strategy": record.strategy,
        "view": record.view,
        "ready": record.ready,
        "reason": record.reason,
        "archive": record.archive,
        "volumes": [each.to_dict() for each in record.volumes],
        "needs": record.needs.to_dict(),
        "devices": [asdict(each) for each in record.devices],
        "mode_reasons": [*record.mode_reasons],
        "identities": {
            path: asdict(each) for path, each in record.identities.items()
        },
        "empty": {path: [*each] for path, each in record.empty.items()},
        "verified": record.verified and record.verified.to_dict(),
        "rootfs_kind": record.rootfs_kind,
        "max_processes": record.max_processes,
        "dropped": [*record.dropped],
        "security_model": record.security_model,
    }


def _upgrade(name: str, data: object) -> dict[str, Any]:
    """Add what the format of a record did not have yet."""
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    for older, added in _ADDED.items():
        if data["format"] == older:
            data = {**data, **added, "format": older + 1}
    if type(data["format"]) is int and data["format"] > _FORMAT:
        raise _NewerError(data["format"])
    if data["format"] != _FORMAT or data["name"] != name:
        raise ValueError(f"format {data['format']!r}, name {data['name']!r}")
    return data


def _decode(name: str, data: object) -> InstanceRecord:
    data = _upgrade(name, data)
    texts = [data[key] for key in _TEXTS]
    reasons, dropped = data["mode_reasons"], data["dropped"]
    if not all(isinstance(text, str) for text in (*texts, *reasons, *dropped)):
        raise ValueError("a value is no text")
    security_model = data["security_model"]
    if not isinstance(security_model, str | None):
        raise ValueError("security_model is no text")
    ready, archive = data["ready"], data["archive"]
    if not isinstance(ready, int | None):
        raise ValueError("ready is no inode number")
    if not isinstance(archive, str | None):
        raise ValueError("archive is no text")
    kind = data["rootfs_kind"]
    max_processes = data["max_processes"]
    if type(max_processes) is not int:
        raise ValueError("max_processes is no number")
    identifier, rootfs, strategy, view, reason = texts
    verified = data["verified"]
    return InstanceRecord(
        name,
        identifier,
        rootfs,
        _decode_maps(data["uid_maps"], data["gid_maps"]),
        Strategy(strategy),
        view,
        ready,
        reason,
        archive,
        tuple(map(Volume.from_dict, data["volumes"])),
        Requirements.from_dict(data["needs"]),
        tuple(Device(**each) for each in data["devices"]),
        tuple(reasons),
        {
            path: FileIdentity.from_dict(each)
            for path, each in _by_path(data["identities"])
        },
        {path: _decode_closed(each) for path, each in _by_path(data["empty"])},
        verified=None if verified is None else Verified.from_dict(verified),
        rootfs_kind=None if kind is None else parse_kind(kind),
        max_processes=max_processes,
        dropped=tuple(dropped),
        security_model=security_model,
    )


def _by_path(data: Any) -> ItemsView[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{data!r} is no JSON object")
    return data.items()


def _decode_closed(data: list[list[int]]) -> Closed:
    closed = tuple((device, inode, time) for device, inode, time in data)
    if not all(isinstance(each, int) for row in closed for each in row):
        raise ValueError("a directory is described by no numbers")
    return closed


def _decode_maps(uid: Any, gid: Any) -> IdMaps | None:
    # A record with half its maps must not pass for one without.
    if uid is None and gid is None:
        return None
    return IdMaps(IdMap.parse(uid), IdMap.parse(gid))


def volume_name(number: int) -> str:
    """Name of the mount point of a volume.

    :param number: its place among the instance's volumes, from 0.
    """
    return f"volume{number}"
