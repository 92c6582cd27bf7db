# SPDX-License-Identifier: Apache-2.0
"""Records that cannot be read, or are of a newer version: what they hold.

Nothing is promised by what is left of a record, but no one else gets what it
names: it may be in use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lxc_userns.exceptions import IdMapError, VolumeError
from lxc_userns.idmap import KINDS, IdMapEntry, Kind
from lxc_userns.spec.volume import Volume

_MAPS = ("uid_maps", "gid_maps")
_TEXT = re.compile(r'"(\w+)":\s*("(?:[^"\\]|\\.)*")')
_ENTRY = re.compile(r"\d+:\d+:\d+")


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """Remains of a record that cannot be read.

    :param name: name of the instance.
    :param reason: why it cannot be read, and what to do.
    :param ids: host IDs that it names, of whichever kind.
    :param rootfs: root filesystem, None if it names none.
    :param strategy: how the view is made; empty if it does not say.
    :param volumes: volumes that it describes wholly.
    :param sources: sources of others.
    """

    name: str
    reason: str
    ids: tuple[range, ...] = ()
    rootfs: str | None = None
    strategy: str = ""
    volumes: tuple[Volume, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def held_ids(self) -> Iterator[tuple[Kind, range]]:
        """Host IDs that no one else is to have, with their kind.

        Where one of the two maps is lost, it was most likely the same.
        """
        for ids in self.ids:
            for kind in KINDS:
                yield kind, ids


def salvage(name: str, reason: str, text: str) -> DamagedRecord:
    """Read what can be read of a record.

    :param name: name of the instance.
    :param reason: why it cannot be read as a record.
    :param text: what is in its file, which may be anything.
    """
    data = _read(text)
    described = data.get("volumes")
    volumes, sources = [], []
    for each in described if isinstance(described, list) else ():
        try:
            volumes.append(Volume.from_dict(each))
        except VolumeError:
            source = each.get("source") if isinstance(each, dict) else None
            sources.append(_path(source))
    return DamagedRecord(
        name,
        reason,
        tuple(dict.fromkeys(_ids(data))),
        _path(data.get("rootfs")),
        str(data.get("strategy", "")),
        tuple(volumes),
        tuple(path for path in sources if path is not None),
    )


def _read(text: str) -> Mapping[str, Any]:
    with suppress(ValueError, RecursionError):
        data = json.loads(text)
        if isinstance(data, dict):
            return data
    # Torn, or with bytes among it that do not belong there.
    found: dict[str, Any] = {"volumes": []}
    for key, literal in _TEXT.findall(text):
        with suppress(ValueError):
            value = json.loads(literal)
            if key == "source":
                found["volumes"].append({key: value})
            else:
                found.setdefault(key, value)
    return found


def _ids(data: Mapping[str, Any]) -> Iterator[range]:
    for key in _MAPS:
        for entry in _ENTRY.findall(str(data.get(key))):
            with suppress(IdMapError):
                yield IdMapEntry.parse(entry).host_ids


def _path(value: object) -> str | None:
    is_path = isinstance(value, str) and value.startswith("/")
    return str(value) if is_path else None
