# SPDX-License-Identifier: Apache-2.0
"""What this host allows: each thing tried, not looked up by version."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oslo_config import cfg

from lxc_userns import hostids, subid
from lxc_userns.allocation import capacity
from lxc_userns.config_check import option
from lxc_userns.exceptions import LxcUsernsError, RootfsError
from lxc_userns.guest import Guests
from lxc_userns.idmap import SYSTEMD_CONTAINERS
from lxc_userns.linux import mounts, user_limits
from lxc_userns.pool import read_pools
from lxc_userns.rootfs import probing

Status = Literal["ok", "warning", "failed"]

_MAX_USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
_CGROUP = "/sys/fs/cgroup"
_LOGIN_DEFS = Path("/etc/login.defs")
#: What shadow takes if that file is silent (login.defs(5)).
_SHADOW_RANGE = (100000, 600100000)
#: Inotify instances: some dozens for each of hundreds of containers.
_ENOUGH = 8192
_ATTRIBUTE = "trusted.lxc_userns.probe"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    :param name: what.
    :param status: ``failed``: containers in user namespaces cannot work.
    :param message: what was found, and what to do.
    """

    name: str
    status: Status
    message: str


Result = tuple[Status, str]


def check_host(conf: cfg.ConfigOpts, guests: Guests) -> list[Check]:
    """Look at everything that containers in user namespaces need.

    :param conf: configuration with our options registered.
    :param guests: how to reach libvirt.
    """
    probes: tuple[tuple[str, Callable[[], Result]], ...] = (
        ("root", _check_root),
        ("user namespaces", _check_user_namespaces),
        ("number of user namespaces", _check_number),
        ("shared limits", lambda: check_limits(user_limits.read())),
        ("libvirt", lambda: _check_libvirt(guests)),
        ("cgroups", lambda: check_cgroups(list(mounts.read_mounts()))),
        ("state_path", lambda: _check_state_path(_path(conf, "state_path"))),
        ("run_path", lambda: _check_run_path(_path(conf, "run_path"))),
        ("subordinate user IDs", lambda: check_ids(hostids.read_host_uids())),
        ("subordinate group IDs", lambda: check_ids(hostids.read_host_gids())),
        ("range for new users", lambda: check_login_defs(_login_defs())),
        ("pool", lambda: _check_pool(conf)),
        ("overlays", lambda: _check_overlays(_path(conf, "state_path"))),
    )
    checks = [_try(name, probe) for name, probe in probes]
    return [*checks, *check_filesystems()]


def _try(name: str, probe: Callable[[], Result]) -> Check:
    try:
        return Check(name, *probe())
    except (OSError, LxcUsernsError) as err:
        return Check(name, "failed", str(err))


def _path(conf: cfg.ConfigOpts, name: str) -> Path:
    return Path(option(conf, name))


def _check_root() -> Result:
    if os.geteuid() == 0:
        return "ok", "this is root"
    return "failed", f"this is user {os.geteuid()}; root is needed"


def _check_user_namespaces() -> Result:
    made = subprocess.run(
        ["unshare", "--user", "true"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=10,
        check=False,
    )
    if made.returncode == 0:
        return "ok", "the kernel makes them"
    return "failed", f"the kernel makes none: {made.stderr.strip()}"


def _check_number() -> Result:
    number = int(_MAX_USER_NAMESPACES.read_text(encoding="ascii"))
    name = "user.max_user_namespaces"
    if number == 0:
        return "failed", f"sysctl {name} is 0; raise it"
    return "ok", f"sysctl {name} is {number}"


def check_limits(found: Mapping[str, int]) -> Result:
    """Whether what all containers share is enough for many.

    :param found: limits of the host's root, by name.
    """
    number = found.get("max_inotify_instances", _ENOUGH)
    name = "fs.inotify.max_user_instances"
    if number < _ENOUGH:
        return "warning", (
            f"sysctl {name} is {number}, of which each container may use "
            f"half, and all of them with the host's root share it; raise it "
            f"to {_ENOUGH} or more"
        )
    return "ok", f"sysctl {name} is {number}"


def _check_libvirt(guests: Guests) -> Result:
    return "ok", f"libvirt {guests.version()} with its LXC driver"


def check_cgroups(found: list[mounts.Mount]) -> Result:
    """Whether libvirt can start containers under this cgroup layout.

    :param found: all mounts.
    """
    types = {mount.point: mount.fs_type for mount in found}
    if types.get(f"{_CGROUP}/unified") == "cgroup2":
        # libvirt 9.0 tries to make that directory in the container, whose
        # /sys/fs/cgroup has no place for it.
        return "failed", (
            f"hybrid, with version 2 on {_CGROUP}/unified: libvirt cannot "
            "start containers; run libvirtd where that is not mounted, or "
            "boot with version 2 alone"
        )
    if types.get(_CGROUP) == "cgroup2":
        return "ok", "version 2"
    if f"{_CGROUP}/systemd" in types:
        return "warning", (
            f"version 1: unless systemd-machined runs, libvirt makes "
            f"{_CGROUP}/systemd belong to the root of each container it "
            "starts; no limit depends on that hierarchy, but kernels before "
            "5.17 run what is written to its release_agent; if no container "
            "runs systemd, run libvirtd where it is not mounted"
        )
    if "cgroup" in types.values():
        return "ok", "version 1"
    return "failed", f"no cgroup filesystem is mounted below {_CGROUP}"


def _check_state_path(path: Path) -> Result:
    place = _nearest(path)
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            os.setxattr(stream.fileno(), _ATTRIBUTE, b"1")
    except OSError as err:
        return "failed", (
            f"no file with trusted.* extended attributes can be made in "
            f"{place}: {err.strerror}"
        )
    return "ok", f"{place} keeps trusted.* extended attributes"


def _check_run_path(path: Path) -> Result:
    place = _nearest(path).resolve()
    for each in (place, *place.parents):
        if not each.stat().st_mode & stat.S_IXOTH:
            return "failed", (
                f"users of containers cannot pass through {each}; it needs "
                "mode o+x"
            )
    return "ok", f"users of containers can pass through {place}"


def _check_overlays(state_path: Path) -> Result:
    place = _nearest(state_path)
    try:
        keeps_acls = probing.check_overlay(str(place))
    except RootfsError as err:
        return "warning", f"none with an upper layer in {place}: {err.reason}"
    except OSError as err:
        return "warning", f"not tried in {place}: {err.strerror or err}"
    if not keeps_acls:
        return "warning", (
            f"can be made with their upper layer in {place}, but this kernel "
            "spoils ACLs of files that are changed if the image is on XFS as "
            "well; have images with ACLs on another filesystem"
        )
    return "ok", f"can be made with their upper layer in {place}"


def check_filesystems() -> list[Check]:
    """Whether root filesystems can be idmapped, by where they are.

    One that cannot is a warning: there are other strategies.
    """
    try:
        found = probing.find_idmappable()
    except OSError as err:
        message = f"not tried without user namespaces: {err.strerror or err}"
        return [Check("idmapped mounts", "warning", message)]
    return [
        Check(
            f"idmapped mounts on {each.point}",
            "warning" if each.reason else "ok",
            each.reason or f"{each.fs_type} can be idmapped",
        )
        for each in found
    ]


def _nearest(path: Path) -> Path:
    """The path, or of its parents the first that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def check_ids(ids: hostids.HostIds) -> Result:
    """Whether the subordinate ID ranges are in order."""
    problems = [
        f"line {line.line} is malformed: {line.reason}"
        for line in ids.malformed
    ]
    problems += [
        f"{one.owner} (line {one.line}) and {other.owner} (line "
        f"{other.line}) overlap"
        for one, other in subid.find_overlaps(ids.subordinates, ids.identify)
    ]
    if problems:
        return "warning", "; ".join(problems)
    return "ok", f"{len(ids.subordinates)} ranges, none overlaps another"


def _check_pool(conf: cfg.ConfigOpts) -> Result:
    owner, size = option(conf, "subid_owner"), option(conf, "range_size")
    if not owner:
        return "ok", "none: [lxc_userns] subid_owner is empty"
    pools = read_pools(owner)
    problems = pools.problems(size)
    if problems:
        return "failed", "; ".join(problems)
    room = min(capacity(pool.ids, pool.free, size) for _, pool in pools)
    return "ok", f"the subordinate IDs of {owner} give {room} leases of {size}"


def _login_defs() -> str:
    try:
        return _LOGIN_DEFS.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def check_login_defs(text: str) -> Result:
    """Whether shadow gives new users subordinate IDs that systemd uses.

    :param text: text of :manpage:`login.defs(5)`.
    """
    first, last = (
        int(match[1]) if (match := _setting(text, name)) else default
        for name, default in zip(
            ("SUB_UID_MIN", "SUB_UID_MAX"), _SHADOW_RANGE, strict=True
        )
    )
    given = f"{_LOGIN_DEFS} gives new users IDs of {first}-{last}"
    theirs = SYSTEMD_CONTAINERS
    if first < theirs.stop and last >= theirs.start:
        return "warning", (
            f"{given}, some of which systemd gives to containers "
            f"({theirs.start}-{theirs.stop - 1})"
        )
    return "ok", given


def _setting(text: str, name: str) -> re.Match[str] | None:
    return re.search(rf"^\s*{name}\s+(\d+)\s*$", text, re.MULTILINE)
