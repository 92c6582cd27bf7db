# SPDX-License-Identifier: Apache-2.0
"""ID maps of the configuration: parsed, with every problem of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from lxc_userns.exceptions import ConfigError, IdMapError
from lxc_userns.idmap import (
    IdMap,
    IdMapEntry,
    IdMaps,
    broken_rules,
    broken_tty_rules,
)

UID_MAPS: Final = "[libvirt] uid_maps"
GID_MAPS: Final = "[libvirt] gid_maps"
SUBID_OWNER: Final = "[lxc_userns] subid_owner"


def parse_id_maps(
    values: Mapping[str, Any], unreadable: Mapping[str, ConfigError]
) -> tuple[IdMaps | None, list[ConfigError]]:
    """Return the maps, None without any, and all that is wrong with them.

    :param values: values of options, by name; those of both maps and of the
        pool's owner count.
    :param unreadable: errors of the options that have no value.
    """
    uid, uid_problems = _parse(UID_MAPS, values, unreadable)
    gid, gid_problems = _parse(GID_MAPS, values, unreadable)
    problems = [*uid_problems, *gid_problems, *_check_together(values)]
    if not uid or not gid or problems:
        return None, problems
    return IdMaps(IdMap(uid), IdMap(gid)), []


def _parse(
    name: str, values: Mapping[str, Any], unreadable: Mapping[str, ConfigError]
) -> tuple[tuple[IdMapEntry, ...], list[ConfigError]]:
    """Return the entries of a map, and all that is wrong with them."""
    if name in unreadable:
        return (), [unreadable[name]]
    entries, errors = [], []
    for item in values[name] or []:
        try:
            entries.append(IdMapEntry.parse(item))
        except IdMapError as err:
            errors.append(err)
    if entries:
        errors += _broken_rules(name, entries, complete=not errors)
    problems = [ConfigError(name, err.value, err.reason) for err in errors]
    return tuple(entries), problems


def _broken_rules(
    name: str, entries: Sequence[IdMapEntry], *, complete: bool
) -> Iterator[IdMapError]:
    broken = list(broken_rules(entries))
    if name == GID_MAPS:
        broken += broken_tty_rules(entries)
    for error in broken:
        # An entry that cannot be read may be the one that is missed.
        if complete or error.rule not in ("guest-root", "tty-unmapped"):
            yield error


def _check_together(values: Mapping[str, Any]) -> Iterator[ConfigError]:
    # One that cannot be read is set, whatever it is.
    given = {name: values.get(name, True) for name in (UID_MAPS, GID_MAPS)}
    for name, other in ((UID_MAPS, GID_MAPS), (GID_MAPS, UID_MAPS)):
        if given[other] and not given[name]:
            short = other.rpartition(" ")[2]
            yield ConfigError(
                name,
                "",
                f"is empty, but {short} is set; set both or neither",
            )
    owner = values.get(SUBID_OWNER)
    if owner and any(given.values()):
        yield ConfigError(
            SUBID_OWNER,
            owner,
            "is set beside [libvirt] uid_maps or gid_maps; every instance "
            "has either these maps or a lease from the pool",
        )
