# SPDX-License-Identifier: Apache-2.0
"""The configuration on this host: what it gives, and all that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from oslo_config import cfg

from lxc_userns import conf as options
from lxc_userns import hostids
from lxc_userns.exceptions import ConfigError
from lxc_userns.idmap import IdMap, IdMapEntry, advisories

Severity = Literal["problem", "warning", "info"]

#: Who owns the lines of ``/etc/subuid`` and ``/etc/subgid`` by which a
#: deployer keeps these IDs from being handed out to users.
RESERVER = "lxc-userns"
_MOST_HOLDERS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to say about the configuration.

    :param severity: ``problem``: it cannot be used; ``warning``: it can, but
        better not; ``info``: what it gives.
    :param option: the option, as ``[libvirt] uid_maps``, or a file.
    :param value: the value that this is about.
    :param message: what there is to say.
    """

    severity: Severity
    option: str
    value: str
    message: str


def option(conf: cfg.ConfigOpts, name: str) -> Any:
    """The value of an option of ``[lxc_userns]``.

    :raises ConfigError: if it cannot be used, whatever the others are like.
    """
    for problem in options.find_problems(conf):
        if problem.option == options.option_name(options.GROUP, name):
            raise problem
    return getattr(conf[options.GROUP], name)


def refuse_pool(conf: cfg.ConfigOpts) -> None:
    """Refuse a pool, from which no instance can lease a range yet.

    :raises ConfigError: if ``subid_owner`` is set, or cannot be used.
    """
    owner = option(conf, "subid_owner")
    if owner:
        raise ConfigError(
            options.option_name(options.GROUP, "subid_owner"),
            owner,
            "leases from a pool are not available; leave it empty and set "
            "[libvirt] uid_maps and gid_maps",
        )


def check_config(conf: cfg.ConfigOpts) -> list[Finding]:
    """Everything there is to say about the configuration on this host.

    :param conf: configuration with our options registered.
    """
    found = [
        Finding("problem", each.option, each.value, each.reason)
        for each in options.find_problems(conf)
    ]
    found += _check_pool(conf)
    found += _check_maps(conf)
    found += _check_files()
    return found


def _check_pool(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    told = [each.args for each in options.find_problems(conf)]
    try:
        refuse_pool(conf)
    except ConfigError as err:
        if err.args not in told:
            yield Finding("problem", err.option, err.value, err.reason)


def _check_maps(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    try:
        id_maps = options.load_id_maps(conf)
    except ConfigError:
        return  # Told before.
    if id_maps is None:
        if conf[options.GROUP].subid_owner:
            return
        yield Finding(
            "warning",
            "[libvirt] uid_maps, gid_maps",
            "",
            "are empty: user namespaces are off",
        )
        return
    for name, id_map, read in (
        ("uid_maps", id_maps.uid, hostids.read_host_uids),
        ("gid_maps", id_maps.gid, hostids.read_host_gids),
    ):
        option = options.option_name(options.LIBVIRT_GROUP, name)
        yield from _describe(option, id_map)
        yield from _check_held(option, id_map, read())
        for advisory in advisories(id_map):
            yield Finding("warning", option, str(id_map), advisory)


def _describe(option: str, id_map: IdMap) -> Iterator[Finding]:
    for entry in id_map:
        yield Finding(
            "info",
            option,
            str(entry),
            f"guest IDs {_show(entry.guest_ids)} are host IDs "
            f"{_show(entry.host_ids)}",
        )


def _check_held(
    option: str, id_map: IdMap, host: hostids.HostIds
) -> Iterator[Finding]:
    for entry in id_map:
        holders = list(host.holders(entry.host_ids, RESERVER))
        for holder in islice(holders, _MOST_HOLDERS):
            yield _held(option, entry, holder)
        if len(holders) > _MOST_HOLDERS:
            more = f"{len(holders) - _MOST_HOLDERS} more"
            yield _held(option, entry, more)


def _held(option: str, entry: IdMapEntry, holder: str) -> Finding:
    return Finding(
        "problem",
        option,
        str(entry),
        f"host IDs {_show(entry.host_ids)} are held by {holder}",
    )


def _check_files() -> Iterator[Finding]:
    for path, read in (
        (hostids.SUBUID, hostids.read_host_uids),
        (hostids.SUBGID, hostids.read_host_gids),
    ):
        for line in read().malformed:
            yield Finding(
                "warning",
                str(path),
                line.text,
                f"line {line.line}: {line.reason}; it is not heeded",
            )


def _show(ids: range) -> str:
    return f"{ids.start}-{ids.stop - 1}"
