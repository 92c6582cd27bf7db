# SPDX-License-Identifier: Apache-2.0
"""Format of the records of instances."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.instances.verified import Verified
from lxc_userns.linux.file_identity import FileIdentity
from lxc_userns.spec.hostname import check_hostname
from lxc_userns.spec.requirements import (
    DEFAULT_PROCESSES,
    Device,
    Requirements,
)
from lxc_userns.spec.rootfs_kind import parse_kind
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume

if TYPE_CHECKING:
    from lxc_userns.linux.fuser import Closed

#: Version of the format.
FORMAT = 4
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
_NONE = type(None)
#: Types of the values that are taken as they are.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "uuid": (str,),
    "rootfs": (str,),
    "strategy": (str,),
    "view": (str,),
    "reason": (str,),
    "ready": (int, _NONE),
    "archive": (str, _NONE),
    "max_processes": (int,),
    "security_model": (str, _NONE),
    "hostname": (str, _NONE),
    "named": (bool,),
}
_WORDS = {str: "text", int: "number", bool: "truth value", _NONE: "null"}


class NewerError(ValueError):
    """A record has a format that a later version has brought."""


def encode(record: InstanceRecord) -> dict[str, Any]:
    """Return a record as plain values, for JSON."""
    maps = record.id_maps
    return {
        "format": FORMAT,
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
        # Left out if there is none, as by who does not know of it.
        **({"hostname": record.hostname} if record.hostname else {}),
        "named": record.named,
    }


def _upgrade(name: str, data: object) -> dict[str, Any]:
    """Add what the format of a record did not have yet."""
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    for older, added in _ADDED.items():
        if data["format"] == older:
            data = {**data, **added, "format": older + 1}
    if type(data["format"]) is int and data["format"] > FORMAT:
        raise NewerError(data["format"])
    if data["format"] != FORMAT or data["name"] != name:
        raise ValueError(f"format {data['format']!r}, name {data['name']!r}")
    return data


def decode(name: str, data: object) -> InstanceRecord:
    """Read what :func:`encode` gave, in any version until now.

    :param name: the name that it has to have.
    :raises NewerError: if a later version has written it.
    :raises Exception: of whatever kind, if it is damaged.
    """
    data = {"hostname": None, **_upgrade(name, data)}
    # Until that was noted, names were given just before it was ready.
    data = {"named": data["ready"] is not None, **data}
    for key, types in _TYPES.items():
        _check(key, data[key], types)
    for key in ("mode_reasons", "dropped"):
        for each in data[key]:
            _check(key, each, (str,))
    kind, verified = data["rootfs_kind"], data["verified"]
    return InstanceRecord(
        name=name,
        uuid=data["uuid"],
        rootfs=data["rootfs"],
        id_maps=_decode_maps(data["uid_maps"], data["gid_maps"]),
        strategy=Strategy(data["strategy"]),
        view=data["view"],
        ready=data["ready"],
        reason=data["reason"],
        archive=data["archive"],
        volumes=tuple(map(Volume.from_dict, data["volumes"])),
        needs=Requirements.from_dict(data["needs"]),
        devices=tuple(Device(**each) for each in data["devices"]),
        mode_reasons=tuple(data["mode_reasons"]),
        identities={
            path: FileIdentity.from_dict(each)
            for path, each in _by_path(data["identities"])
        },
        empty={
            path: _decode_closed(each)
            for path, each in _by_path(data["empty"])
        },
        verified=None if verified is None else Verified.from_dict(verified),
        rootfs_kind=None if kind is None else parse_kind(kind),
        max_processes=data["max_processes"],
        dropped=tuple(data["dropped"]),
        security_model=data["security_model"],
        hostname=data["hostname"] and check_hostname(data["hostname"]),
        named=data["named"],
    )


def _check(key: str, value: object, types: tuple[type, ...]) -> None:
    # A truth value is no number.
    is_one = isinstance(value, types)
    if not is_one or isinstance(value, bool) != (bool in types):
        expected = " or ".join(_WORDS[each] for each in types)
        raise ValueError(f"{key} is no {expected}")


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
