# SPDX-License-Identifier: Apache-2.0
"""Record of an instance: what it was promised."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxc_userns.arguments import check_type
from lxc_userns.commands import command
from lxc_userns.exceptions import InstanceError
from lxc_userns.spec.requirements import (
    CAPABILITIES,
    DEFAULT_PROCESSES,
    MOST_PROCESSES,
    Device,
    Mode,
    Requirements,
)

if TYPE_CHECKING:
    from lxc_userns.idmap import IdMaps, Kind
    from lxc_userns.instances.verified import Verified
    from lxc_userns.linux.file_identity import FileIdentity
    from lxc_userns.linux.fuser import Closed
    from lxc_userns.spec.rootfs_kind import RootfsKind
    from lxc_userns.spec.strategy import Strategy
    from lxc_userns.spec.volume import Volume

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
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
    :param hostname: its host name; None for what libvirt makes of its name.
    :param named: whether files that it alone has were given its names, which
        are its own root's to change from then on.
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
    hostname: str | None = None
    named: bool = False

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
    def has_own_files(self) -> bool:
        """Whether it has files below the state path that no one else has."""
        is_private = self.strategy.traits.private_upper
        return is_private or self.archive is not None

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


def is_name(name: str) -> bool:
    """Return whether an instance can have a name; domains can have others."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Refuse what cannot be a file name, a host name and a domain name.

    :raises InstanceError: if it is refused.
    """
    check_type("instance", "name", name, str)
    if not is_name(name):
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


def name_taken(state: str, uuid: str, name: str) -> str:
    """Return why a name is not given to another instance.

    :param state: that of the instance that has it.
    :param uuid: its UUID.
    """
    remedy = command("gc", "--grace-period", "0", name)
    return (
        f"is {state}, as the instance {uuid}; call release first, or, if "
        f"libvirt does not know that one any more, run: {remedy}"
    )


def volume_name(number: int) -> str:
    """Return the name of a volume's mount point.

    :param number: its place among the instance's volumes, from 0.
    """
    return f"volume{number}"
