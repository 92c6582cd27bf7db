# SPDX-License-Identifier: Apache-2.0
"""The configuration on this host: what it gives, and all that is wrong."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from oslo_config import cfg

from lxc_userns import own_paths
from lxc_userns.config import allowed_paths, novas_disks
from lxc_userns.config.id_maps import SUBID_OWNER
from lxc_userns.config.options import GROUP, option_name
from lxc_userns.config.settings import MAPS, Settings
from lxc_userns.config.sources import find_files, find_places
from lxc_userns.exceptions import ConfigError, PrerequisiteError
from lxc_userns.findings import Finding, Severity
from lxc_userns.idmap import (
    CONTAINER_IDS,
    FEW_IDS,
    IdMap,
    Kind,
    advisories,
    host_advisories,
)
from lxc_userns.leases.allocation import capacity
from lxc_userns.leases.pool import Pool, read_pools
from lxc_userns.linux import safe_path
from lxc_userns.subid import owners, unlisted
from lxc_userns.subid.held_ids import find_held
from lxc_userns.text import show

_MOST_LINES = 20
_info = partial(Finding, severity=Severity.INFO)
_warn = partial(Finding, severity=Severity.WARN)
_error = partial(Finding, severity=Severity.ERROR)


def check_config(conf: cfg.ConfigOpts) -> list[Finding]:
    """Return all there is to say about the configuration on this host.

    :param conf: configuration with our options registered.
    """
    settings = Settings.from_conf(conf)
    found = [
        _error(code=each.option, subject=show(each.value), message=each.reason)
        for each in (
            *settings.find_problems(),
            *novas_disks.find_problems(conf),
        )
    ]
    for name, value, place in find_places(conf):
        found.append(
            _info(code=name, subject=show(value), message=f"from {place}")
        )
    found += _check_pool(settings)
    found += _check_maps(settings)
    found += _check_paths(settings)
    found += _check_writers(conf)
    found += _check_files()
    return found


def _check_writers(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Warn of users who may say what root does."""
    # Into a directory of files one can be put as well.
    places = [f"{each}/.conf" for each in conf.config_dir or ()]
    # oslo.config finds a file by the project's name and by the program's.
    for path in dict.fromkeys((*find_files(conf), *places)):
        reason = ""
        with suppress(OSError):
            reason = _find_writers(os.path.abspath(path))
        if reason:
            yield _warn(
                code=path,
                subject="",
                message="others may write it, and so say what root does: "
                f"{reason}",
            )


def _find_writers(path: str) -> str:
    """Return why others may write a file; empty if they may not."""
    try:
        status = os.stat(safe_path.resolve(path))
    except safe_path.ReplaceableError as err:
        return str(err)
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {status.st_uid}; chown root {path}"
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"it has mode {mode:04o}; chmod go-w {path}"
    return ""


def _check_paths(settings: Settings) -> Iterator[Finding]:
    # To others root's own directories look wrong.
    if os.geteuid() != 0:
        return
    for name, check in own_paths.CHECKS.items():
        with suppress(ConfigError):  # Told before.
            yield from _check_path(check, getattr(settings, name))
    with suppress(ConfigError):
        for path in settings.roots:
            yield from _check_path(allowed_paths.check_root, path)


def _check_path(check: Callable[[str], None], path: str) -> Iterator[Finding]:
    try:
        check(path)
    except ConfigError as err:
        yield _error(code=err.option, subject=err.value, message=err.reason)


def _check_pool(settings: Settings) -> Iterator[Finding]:
    name = SUBID_OWNER
    try:
        owner, size = settings.subid_owner, settings.range_size
        if not owner:
            return
        pools = read_pools(owner)
    except ConfigError:
        return  # Told before.
    except PrerequisiteError as err:
        yield _error(code=name, subject=owner, message=str(err))
        return
    for problem in pools.problems(size):
        yield _error(code=name, subject=owner, message=problem)
    for _, pool in pools:
        yield from _describe_pool(name, pool, size)
    if size < CONTAINER_IDS:
        size_name = option_name(GROUP, "range_size")
        yield _warn(code=size_name, subject=str(size), message=FEW_IDS)


def _describe_pool(name: str, pool: Pool, size: int) -> Iterator[Finding]:
    info, warning = partial(_info, code=name), partial(_warn, code=name)
    for ids in pool.ids:
        shown = f"{ids.start}:{len(ids)}"
        yield info(
            subject=shown,
            message=f"{pool.kind} IDs {_show(ids)} are in the pool",
        )
        for advisory in (
            *host_advisories(shown, ids),
            *unlisted.advisories(shown, ids),
        ):
            yield warning(subject=shown, message=advisory)
    room = capacity(pool.ids, pool.free, size)
    if room:
        yield info(
            subject=str(room),
            message=f"the pool has {pool.kind} IDs for {room} leases of "
            f"{size}",
        )
    kind: Kind = "uid" if pool.kind == "user" else "gid"
    for ids in pool.ids if unlisted.can_be() else ():
        for holder in unlisted.find(kind, ids):
            yield warning(
                subject=f"{ids.start}:{len(ids)}",
                message=f"has IDs of a directory service, as {holder}; lease "
                "from others",
            )
    if pool.absent:
        yield warning(subject=pool.source, message=pool.describe_absent())
    if pool.holders:
        yield warning(
            subject=pool.source,
            message=f"of the pool's {pool.kind} IDs, some are not leased, for "
            f"they are held by {pool.describe_holders()}",
        )


def _check_maps(settings: Settings) -> Iterator[Finding]:
    try:
        id_maps = settings.id_maps
        has_pool = settings.has_pool
    except ConfigError:
        return  # Told before.
    if id_maps is None:
        if has_pool:
            return
        yield _warn(
            code="[libvirt] uid_maps, gid_maps",
            subject="",
            message="are empty: user namespaces are off",
        )
        return
    tell_held = _error if settings.refuses_held else _warn
    for option, id_map, held in zip(
        MAPS,
        (id_maps.uid, id_maps.gid),
        find_held(id_maps),
        strict=True,
    ):
        yield from _describe(option, id_map)
        for each in held:
            yield tell_held(
                code=option, subject=str(each.entry), message=str(each)
            )
        for advisory in _advisories(id_map):
            yield _warn(code=option, subject=str(id_map), message=advisory)


def _advisories(id_map: IdMap) -> Iterator[str]:
    yield from advisories(id_map)
    for entry in id_map:
        yield from unlisted.advisories(str(entry), entry.host_ids)


def _describe(option: str, id_map: IdMap) -> Iterator[Finding]:
    for entry in id_map:
        yield _info(
            code=option,
            subject=str(entry),
            message=f"guest IDs {_show(entry.guest_ids)} are host IDs "
            f"{_show(entry.host_ids)}",
        )


def _check_files() -> Iterator[Finding]:
    for path, read in (
        (owners.SUBUID, owners.read_host_uids),
        (owners.SUBGID, owners.read_host_gids),
    ):
        malformed = read().malformed
        for line in malformed[:_MOST_LINES]:
            yield _warn(
                code=str(path),
                subject=show(line.text),
                message=f"line {line.line}: {line.reason}; the line is "
                "ignored",
            )
        if len(malformed) > _MOST_LINES:
            more = f"{len(malformed) - _MOST_LINES} more lines like these"
            yield _warn(code=str(path), subject="", message=more)


def _show(ids: range) -> str:
    return f"{ids.start}-{ids.stop - 1}"
