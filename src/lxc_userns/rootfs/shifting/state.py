# SPDX-License-Identifier: Apache-2.0
"""State of a tree's shifts, on its root directory.

One extended attribute in the ``trusted`` namespace, which only the host's
root can read or write: a container cannot forge it, but whoever made an image
can. It makes a finished tree known without a look at its files, and a
half-done one resumable.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lxc_userns.exceptions import IdMapError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.rootfs.shifting.translation import Translation

#: Name of the attribute.
STATE = "trusted.lxc_userns.state"
#: What becomes of owners that the maps do not cover.
POLICIES = ("keep", "nobody", "error")
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Work:
    """A shift that has begun and not ended.

    :param maps: what the tree shall be shifted for, None for guest IDs.
    :param unmapped: policy for unmapped owners, ``keep``, ``nobody`` or
        ``error``.
    :param transit: first ID of the transit range, None if there is none.
    :param step: the pass under way, from 0.
    """

    maps: IdMaps | None
    unmapped: str
    transit: int | None = None
    step: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """State of a tree's shifts.

    :param maps: the maps, None for guest IDs.
    :param work: what is under way from there.
    :param inodes: inodes of the tree when it was last walked.
    :param unmapped: of these, the ones with an unmapped owner, or another
        unmapped ID; see :class:`~lxc_userns.rootfs.ShiftReport`.
    :param owner: owner of the root directory when all was done; another
        owner now means that somebody has changed the tree since.
    :param devices: inodes that are device nodes; None if an older version
        has shifted them like all else, and none was counted.
    :param linked_outside: inodes that had names outside of the tree.
    :param nobody: whether unmapped owners were made nobody, so that none of
        the unmapped IDs is an owner.
    """

    maps: IdMaps | None = None
    work: Work | None = None
    inodes: int = 0
    unmapped: int = 0
    owner: tuple[int, int] | None = None
    devices: int | None = None
    linked_outside: int = 0
    nobody: bool = False

    def __post_init__(self) -> None:
        work = self.work
        if work is None:
            return
        if work.unmapped not in POLICIES:
            raise ValueError(f"policy {work.unmapped!r} is not known")
        passes = Translation(self.maps, work.maps, work.unmapped).passes(
            work.transit
        )
        if work.step not in range(len(passes)):
            raise ValueError(f"there is no pass {work.step}")

    def encode(self) -> bytes:
        """Return the value of the attribute."""
        work = self.work and {
            "maps": _encode_maps(self.work.maps),
            "unmapped": self.work.unmapped,
            "transit": self.work.transit,
            "step": self.work.step,
        }
        value = {
            "version": _VERSION,
            "maps": _encode_maps(self.maps),
            "inodes": self.inodes,
            "unmapped": self.unmapped,
            "owner": self.owner,
            "devices": self.devices,
            "linked_outside": self.linked_outside,
            "nobody": self.nobody,
            "work": work,
        }
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> State:
        """Read the value of the attribute.

        :raises ValueError: if it is not one that :meth:`encode` makes.
        """
        value = _parse(data)
        try:
            if value["version"] != _VERSION:
                raise ValueError(f"version {value['version']} is not known")
            return cls(
                _decode_maps(value["maps"]),
                _decode_work(value["work"]),
                int(value["inodes"]),
                int(value["unmapped"]),
                _decode_owner(value["owner"]),
                _decode_count(value.get("devices")),
                int(value.get("linked_outside", 0)),
                bool(value.get("nobody", False)),
            )
        except (
            KeyError,
            TypeError,
            IdMapError,
            OverflowError,
        ) as err:
            raise ValueError(f"malformed: {err}") from err


def _parse(data: bytes) -> Any:
    # What is nested too deeply is, by version of Python, either of them.
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"malformed: {err}") from err


def _encode_maps(maps: IdMaps | None) -> dict[str, str] | None:
    if maps is None:
        return None
    return {"uid": str(maps.uid), "gid": str(maps.gid)}


def _decode_maps(value: Any) -> IdMaps | None:
    if value is None:
        return None
    return IdMaps(IdMap.parse(value["uid"]), IdMap.parse(value["gid"]))


def _decode_count(value: Any) -> int | None:
    return None if value is None else int(value)


def _decode_owner(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    uid, gid = value
    return int(uid), int(gid)


def _decode_work(value: Any) -> Work | None:
    if value is None:
        return None
    transit = value["transit"]
    return Work(
        _decode_maps(value["maps"]),
        str(value["unmapped"]),
        None if transit is None else int(transit),
        int(value["step"]),
    )
