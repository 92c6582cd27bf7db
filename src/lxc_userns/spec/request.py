# SPDX-License-Identifier: Apache-2.0
"""Requests: what a compute service asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from lxc_userns.arguments import (
    check_items,
    check_range,
    check_type,
    refuse,
)
from lxc_userns.idmap import ID_LIMIT, TTY_GID, IdMaps
from lxc_userns.spec.hostname import check_hostname
from lxc_userns.spec.requirements import (
    MOST_PROCESSES,
    SECURITY_MODELS,
    Requirements,
)
from lxc_userns.spec.rootfs_kind import RootfsKind
from lxc_userns.spec.strategy import CHOICES
from lxc_userns.spec.volume import Volume
from lxc_userns.text import show

_NONE: Final = type(None)
_REQUEST: Final = "InstanceRequest"
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "uuid": (str,),
    "rootfs": (str,),
    "id_maps": (IdMaps, _NONE),
    "strategy": (str, _NONE),
    "program": (str, _NONE),
    "range_size": (int, _NONE),
    "needs": (Requirements,),
    "rootfs_kind": (str, _NONE),
    "max_processes": (int, _NONE),
    "security_model": (str, _NONE),
    "hostname": (str, _NONE),
    "grow": (bool,),
}
_RANGES: Final = {
    "range_size": range(TTY_GID + 1, ID_LIMIT),
    "max_processes": range(MOST_PROCESSES + 1),
}
_WORDS: Final = {"strategy": CHOICES, "security_model": SECURITY_MODELS}


@dataclass(frozen=True, slots=True)
class InstanceRequest:
    """Request of a compute service.

    :param name: name of the instance and of its libvirt domain: a letter or
        digit, then at most 62 letters, digits, ``.``, ``_`` and ``-``.
    :param uuid: UUID of both.
    :param rootfs: its root filesystem: a directory, a raw disk image with
        one filesystem, or a tar archive, which is unpacked for it.
    :param id_maps: its ID maps; None: those of the configuration, or of a
        lease from the pool that is configured.
    :param range_size: number of IDs of its lease, 6 to 4294967294; None:
        that of the configuration, or whatever lease it has.
    :param strategy: ``idmapped``, ``overlay``, ``chown`` or ``auto``; None:
        that of the configuration.
    :param volumes: files of the host that it sees besides.
    :param program: what it will start, an absolute path in it; its root
        filesystem is left alone, but for its growth, unless it has that.
    :param needs: what it asks for that not every container is to have; what
        the policy of the configuration does not allow is refused.
    :param rootfs_kind: what ``rootfs`` is: ``directory``, ``image`` or
        ``archive``; anything else there is refused, whatever is in it. None
        finds out from what is there: not for an image of somebody else, who
        would choose by its content what is done with it.
    :param max_processes: how many processes and threads it may have, 0 to
        4194304; 0 sets no limit. None: that of the configuration.
    :param security_model: security module of the kernel by which it is to be
        confined, ``apparmor`` or ``selinux``: its domain has to have a
        ``<seclabel>`` of it. None promises nothing.
    :param hostname: its host name, as :manpage:`hostname(7)` has it, of at
        most 64 characters; None: libvirt makes one of its name, and what its
        root filesystem says stays.
    :param grow: whether the filesystem of an image is grown to all of it each
        time it is prepared, and the partition that it is in as well. What is
        shared, by the strategy ``overlay``, stays as it is. This is not
        promised: by its name alone an instance is prepared without.
    :raises ArgumentError: for a value of another type, a number out of its
        range, a strategy that there is not, a path that is none, or two
        values that contradict each other: ``id_maps`` and ``range_size``,
        either and the mode ``host``, two volumes with one target.
    """

    name: str
    uuid: str
    rootfs: str
    id_maps: IdMaps | None = None
    strategy: str | None = None
    volumes: tuple[Volume, ...] = ()
    program: str | None = None
    range_size: int | None = None
    needs: Requirements = field(default_factory=Requirements)
    rootfs_kind: RootfsKind | None = None
    max_processes: int | None = None
    security_model: str | None = None
    hostname: str | None = None
    grow: bool = False

    def __post_init__(self) -> None:
        check_type(_REQUEST, "name", self.name, str)
        what = self._what
        for name, types in _TYPES.items():
            check_type(what, name, getattr(self, name), *types)
        for name, span in _RANGES.items():
            check_range(what, name, getattr(self, name), span)
        check_items(what, "volumes", self.volumes, Volume)
        object.__setattr__(self, "volumes", tuple(self.volumes))
        for name, words in _WORDS.items():
            if getattr(self, name) not in (None, *words):
                expected = f"expected {', '.join(words)}, or None"
                refuse(what, name, getattr(self, name), expected)
        if self.hostname is not None:
            try:
                check_hostname(self.hostname)
            except ValueError as err:
                refuse(what, "hostname", self.hostname, str(err))
        self._check_paths()
        self._check_contradictions()

    @property
    def _what(self) -> str:
        """Return how an error names it."""
        return f"{_REQUEST} {show(self.name) or repr('')}"

    def _check_paths(self) -> None:
        if not _can_be_path(self.rootfs):
            reason = "is not a path; give one"
            refuse(self._what, "rootfs", self.rootfs, reason)
        if self.program is not None and not (
            self.program.startswith("/") and _can_be_path(self.program)
        ):
            reason = "is no absolute path in the container; give one"
            refuse(self._what, "program", self.program, reason)

    def _check_contradictions(self) -> None:
        if self.id_maps is not None and self.range_size is not None:
            reason = "is for a lease, and id_maps need none; leave one out"
            refuse(self._what, "range_size", self.range_size, reason)
        if self.needs.mode == "host":
            for name in ("id_maps", "range_size"):
                if getattr(self, name) is not None:
                    reason = "contradicts needs, of mode host; leave one out"
                    refuse(self._what, name, getattr(self, name), reason)
        targets = [each.target for each in self.volumes]
        if twice := [each for each in targets if targets.count(each) > 1]:
            reason = "is the target of two; give each one of its own"
            refuse(self._what, "volumes", twice[0], reason)


def _can_be_path(text: str) -> bool:
    """Return whether the kernel can be given a text as a path."""
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
