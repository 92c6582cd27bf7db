# SPDX-License-Identifier: Apache-2.0
"""Options, and the ID maps that follow from them.

Nothing is registered by importing this module; a service calls
:func:`register_opts` on its own configuration object.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from oslo_config import cfg, types

from lxc_userns.arguments import checked
from lxc_userns.config import allowed_paths
from lxc_userns.config.names import find_misnamed
from lxc_userns.config.shared_opts import SharedListOpt
from lxc_userns.exceptions import ConfigError, IdMapError, shorten, show
from lxc_userns.idmap import (
    MAX_ENTRIES,
    TTY_GID,
    IdMap,
    IdMapEntry,
    IdMaps,
    broken_rules,
    broken_tty_rules,
)
from lxc_userns.rootfs.archive.limits import LEAST_MEMORY, UnpackLimits
from lxc_userns.spec.requirements import DEFAULT_PROCESSES, MOST_PROCESSES
from lxc_userns.spec.size import format_size, parse_size
from lxc_userns.subid import held_ids

LIBVIRT_GROUP = "libvirt"
GROUP = "lxc_userns"
#: The options of the ID maps, as messages name them.
MAP_NAMES = ("[libvirt] uid_maps", "[libvirt] gid_maps")
#: Where a value is that somebody has written, and that is no default.
_WRITTEN = frozenset(
    {
        cfg.Locations.command_line,
        cfg.Locations.environment,
        cfg.Locations.set_override,
        cfg.Locations.user,
    }
)
_OWNER = re.compile(r"[^\s:#-][^\s:]*")


class _Integer(types.Integer):
    """An integer whose errors name the text that is none, or out of range."""

    def __call__(self, value: Any) -> Any:
        try:
            return super().__call__(value)
        except ValueError as err:
            text = str(value)
            said = str(err).replace(text, shorten(text))
            raise ValueError(f"{show(text)}: {said}") from None


class _Size(types.ConfigType):
    """A number of bytes, with or without a unit.

    :param least: the least that it may be.
    """

    def __init__(self, least: int) -> None:
        super().__init__(type_name="size")
        self._least = least

    def __call__(self, value: Any) -> int:
        size = value if isinstance(value, int) else parse_size(value)
        if size < self._least:
            least = format_size(self._least)
            shown = show(str(value))
            raise ValueError(f"{shown}: expected at least {least}")
        return size

    def __repr__(self) -> str:
        return f"Size({self._least})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Size) and self._least == other._least

    __hash__ = None  # type: ignore[assignment]

    def _formatter(self, value: Any) -> str:
        return str(value)


def _map_help(kind: str, ids: str) -> str:
    return f"""
ID map for {kind} IDs of the containers.

A comma-separated list of at most {MAX_ENTRIES} entries guest:host:count, each
three decimal integers: {ids} IDs guest..guest+count-1 inside the container
are host..host+count-1 on the host. Guest ID 0 has to be mapped, host ID 0
never is, and entries do not overlap. For example 0:2013265920:65536 gives
the container 65536 IDs and makes its root the host's {kind} 2013265920.

uid_maps and gid_maps are set together or not at all. While both are empty,
user namespaces are off, and the root of a container is the root of the host.
A value that breaks a rule stops every start of a container; it is never
shortened or ignored. All instances share these maps: for a range of its own
for each instance, set [lxc_userns] subid_owner instead.
"""


LIBVIRT_OPTS = (
    SharedListOpt("uid_maps", default=[], help=_map_help("user", "user")),
    SharedListOpt("gid_maps", default=[], help=_map_help("group", "group")),
)

OPTS = (
    cfg.StrOpt(
        "subid_owner",
        default="",
        help="""
User, by name or number, whose ranges in /etc/subuid and /etc/subgid are the
pool from which each instance leases a range of its own.

For example "lxc-userns", with the line "lxc-userns:2013265920:131072000" in
both files. There need be no such user. If /etc/nsswitch.conf names another
source for "subid", getsubids(1) asks that one. Empty: no pool, and the maps of
[libvirt] uid_maps and gid_maps serve all instances. Setting both is an error.
""",
    ),
    cfg.Opt(
        "range_size",
        _Integer(min=1, max=2**32 - 2),
        default=65536,
        help="""
Number of user IDs, and of group IDs, that an instance leases from the pool.

Fewer than 65536 leaves nobody (65534) without a host ID; more are needed only
for user namespaces nested in the container. For example 131072. At least 6,
for group 5 (tty) has to be mapped. The leases that are there keep their size.
""",
    ),
    cfg.StrOpt(
        "rootfs_strategy",
        default="auto",
        choices=[
            ("auto", "idmapped where it works for the path, else chown."),
            ("idmapped", "The kernel shifts owners as it shows them."),
            ("overlay", "Idmapped shared image below, private layer above."),
            ("chown", "Owners are shifted on disk, once, recursively."),
        ],
        help="""
How the files of a root filesystem come to belong to the mapped IDs.

For example "overlay", to start many instances from one image that none of
them changes. What each changes is kept below state_path.

"idmapped" and "overlay" change nothing in the root filesystem. They need a
kernel and a filesystem that can, and a parent directory of mode 0700, that
only root can enter; if anything is missing, the start is stopped. Only
"auto" falls back, to "chown", and says why; it is "chown" too for what is
shifted on disk already. An instance stays with what "auto" gave it first.
The request for an instance may name a strategy of its own.
""",
    ),
    cfg.StrOpt(
        "unmapped_ids",
        default="keep",
        choices=[
            ("keep", "Leave the owner; the container sees nobody."),
            ("nobody", "With chown, make it that of guest ID 65534."),
            ("error", "Change nothing, list the owners and stop."),
        ],
        help="""
What becomes of files whose owner no ID map entry covers.

For example "error" for images that have to be mapped whole: every root
filesystem is walked once, before its first start. With the strategies
idmapped and overlay nothing changes on disk, and the container sees nobody
by "nobody" as by "keep". With chown, "nobody" loses the owner: a later
unshift cannot bring it back.
""",
    ),
    cfg.StrOpt(
        "held_ids",
        default="refuse",
        choices=[
            ("refuse", "No container starts with them."),
            ("allow", "Containers start; config check warns."),
        ],
        help="""
Whether ID maps may have host IDs that a user, a group or the subordinate
ranges of another owner hold. It counts for [libvirt] uid_maps and gid_maps
and for the maps of a request; leases never have such IDs.

For example "allow", where /etc/subuid gives these ranges to root for this very
purpose, as LXC and Incus do. A user who has an ID of a container may kill its
processes and read its files, and the container those of the user. Better have
the line of /etc/subuid name lxc-userns as the owner: that is no other.
""",
    ),
    cfg.StrOpt(
        "userns_policy",
        default="required",
        choices=[
            ("required", "Every instance has its own user namespace."),
            ("preferred", "A request may fall back to the host's."),
        ],
        help="""
Whether an instance may run in the user namespace of the host.

For example "preferred", if instances may ask for things that the kernel
gives only in the host's user namespace. There, root is the host's root.
""",
    ),
    cfg.StrOpt(
        "state_path",
        default="/var/lib/lxc-userns",
        help="""
Directory for what has to outlive a reboot of the host, as an absolute path:
a record of each instance, what it has changed on an overlay, and what was
unpacked for it from an archive. For example /srv/lxc-userns. It is made
with mode 0700 and has to belong to root.

For overlays its filesystem has to be one that can hold an upper layer, such
as ext4, xfs or btrfs; not NFS.
""",
    ),
    cfg.StrOpt(
        "run_path",
        default="/run/lxc-userns",
        help="""
Directory for the mounts that containers use as filesystems, as an absolute
path. For example /run/nova-lxc-userns. It is made with mode 0711: users of
containers pass through it, and nobody lists it.
""",
    ),
    cfg.Opt(
        "shift_workers",
        _Integer(min=0, max=256),
        default=0,
        help="""
Most worker processes that shift one root filesystem on disk. 0: one for each
CPU. For example 1, to leave the other CPUs to running instances; a large root
filesystem then takes longer.
""",
    ),
    cfg.Opt(
        "unpack_max_bytes",
        _Size(1),
        default="64 GiB",
        help="""
Most bytes that one archive may unpack to: as a stream, and on disk. Units
are K, M, G and so on for powers of 1000, and Ki, Mi, Gi for powers of 1024.
For example "8 GiB", if the archives come from users.

Whatever it is, a twentieth of the filesystem stays free, or 1 GiB of it, and
as many of its inodes, or 10000.
""",
    ),
    cfg.Opt(
        "unpack_max_inodes",
        _Integer(min=1, max=2**32),
        default=4_000_000,
        help="""
Most files that one archive may unpack to. Each name of a hard link counts,
and each directory that is made because a name in the archive has it. For
example 1000000.
""",
    ),
    cfg.Opt(
        "unpack_max_memory",
        _Size(LEAST_MEMORY),
        default="1 GiB",
        help="""
Most address space, in bytes, that tar may have while an archive is unpacked,
and as much again for the program that decompresses it. Units are as for
unpack_max_bytes. For example "256 MiB"; at least 64 MiB. What xz or zstd
make with their default settings needs less than 200 MiB.
""",
    ),
    cfg.Opt(
        "max_processes",
        _Integer(min=0, max=MOST_PROCESSES),
        default=DEFAULT_PROCESSES,
        help="""
How many processes and threads one container may have. 0: no limit but those
of the host, which one container can use up for all.

For example 16384, for services of many threads. Host and containers together
have as many as sysctl kernel.pid_max says. The limit is that of a control
group of the host's root (pids.max); the instances that are there keep theirs.
""",
    ),
    cfg.StrOpt(
        "seclabel",
        default="auto",
        choices=[
            (
                "auto",
                "by that of AppArmor and SELinux which libvirtd uses, if it "
                "uses one; it is verified from the kernel's side",
            ),
            ("none", "they are left to the configuration of libvirtd"),
        ],
        help="""
How the containers of "container run" are confined by a security module of
the kernel, beside their user namespace.

Each gets a label of its own, which libvirt makes (<seclabel type='dynamic'>).
Without that element libvirt confines containers only if
security_default_confined in lxc.conf says so. The containers that are there
keep theirs. For example none, where a profile of the host is too tight.
""",
    ),
)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """All options by section, copied, for oslo-config-generator."""
    return [
        (LIBVIRT_GROUP, copy.deepcopy(list(LIBVIRT_OPTS))),
        (GROUP, copy.deepcopy(list(OPTS))),
        (allowed_paths.GROUP, copy.deepcopy(list(allowed_paths.OPTS))),
    ]


@checked(conf=cfg.ConfigOpts)
def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register all options; safe to repeat, and beside Nova's own.

    ``[libvirt] uid_maps`` and ``gid_maps`` may have been registered by Nova
    before, or may be later, with any help text and default.

    :param conf: the configuration object of the service.
    :raises oslo_config.cfg.DuplicateOptError: if an option of the same name
        and another type is registered.
    """
    conf.register_opts(LIBVIRT_OPTS, group=LIBVIRT_GROUP)
    conf.register_opts(OPTS, group=GROUP)
    conf.register_opts(allowed_paths.OPTS, group=allowed_paths.GROUP)


@checked(conf=cfg.ConfigOpts)
def load_id_maps(conf: cfg.ConfigOpts) -> IdMaps | None:
    """Return the ID maps that the configuration gives to every instance.

    :param conf: a configuration object with our options registered.
    :returns: the maps, or None if neither they nor a pool are configured:
        then user namespaces are off.
    :raises ConfigError: if a pool is configured, so that each instance has
        ID maps of its own, by
        :meth:`~lxc_userns.UserNamespaceManager.reserve`; as
        :func:`read_id_maps`, or if others hold any of the host IDs, as
        :func:`check_held`.
    """
    maps = read_id_maps(conf)
    if maps is not None:
        check_held(conf, maps)
    elif has_pool(conf):
        raise ConfigError(
            option_name(GROUP, "subid_owner"),
            _value(conf, GROUP, "subid_owner"),
            "is set, so that there are no ID maps for all: each instance has "
            "a lease; call UserNamespaceManager.reserve or prepare, and take "
            "the id_maps of what it returns",
        )
    return maps


def check_held(
    conf: cfg.ConfigOpts,
    id_maps: IdMaps,
    names: tuple[str, str] = MAP_NAMES,
) -> None:
    """Refuse ID maps with host IDs that others hold, unless it is allowed.

    Whatever starts a container here asks this, or gives it a lease, which
    has no such IDs.

    :param conf: a configuration object with our options registered.
    :param id_maps: maps of any origin.
    :param names: what the error calls the two maps.
    :raises ConfigError: if a user, a group, or the subordinate range of
        another owner has any of the IDs.
    :raises PrerequisiteError: if these cannot be read.
    """
    if refuses_held(conf):
        held_ids.check_unheld(
            id_maps, names, _value(conf, GROUP, "subid_owner")
        )


def refuses_held(conf: cfg.ConfigOpts) -> bool:
    """Return whether ID maps may have no host IDs that others hold.

    :param conf: a configuration object with our options registered.
    """
    # A word that cannot be read allows nothing.
    if _unreadable(conf, GROUP, "held_ids") is not None:
        return True
    return bool(_value(conf, GROUP, "held_ids") == "refuse")


def read_id_maps(conf: cfg.ConfigOpts) -> IdMaps | None:
    """Return the ID maps of the configuration, whoever has their host IDs.

    :param conf: a configuration object with our options registered.
    :returns: the maps, or None if ``uid_maps`` and ``gid_maps`` are empty:
        then user namespaces are off, or each instance has a lease.
    :raises ConfigError: if a value breaks a rule, an option has nearly the
        name of one of ours, or ``userns_policy`` asks for what there is not;
        every problem of the maps is in the text, and none is passed over.
    """
    maps, problems = _read_maps(conf)
    problems = [*_check_names(conf), *problems, *_check_required(conf)]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        options = ", ".join(dict.fromkeys(each.option for each in problems))
        raise ConfigError(options, "", "; ".join(map(str, problems)))
    return maps


def load_unpack_limits(conf: cfg.ConfigOpts) -> UnpackLimits:
    """Return what unpacking one archive may take.

    :param conf: a configuration object with our options registered.
    :raises ConfigError: if a value cannot be used.
    """
    names = ("max_bytes", "max_inodes", "max_memory")
    for name in names:
        problem = _unreadable(conf, GROUP, f"unpack_{name}")
        if problem is not None:
            raise problem
    values = {name: _value(conf, GROUP, f"unpack_{name}") for name in names}
    return UnpackLimits(**values)


def has_pool(conf: cfg.ConfigOpts) -> bool:
    """Whether each instance is to have a lease from a pool.

    :param conf: a configuration object with our options registered.
    """
    return bool(_value(conf, GROUP, "subid_owner"))


def find_problems(
    conf: cfg.ConfigOpts, *, maps_given: bool = False
) -> list[ConfigError]:
    """Everything that is wrong with our options, and with names near them.

    :param conf: a configuration object with our options registered.
    :param maps_given: whether there are ID maps besides, so that the policy
        may ask for a user namespace.
    :returns: one error for each problem, none if all is good.
    """
    # What is misspelt comes before what is missing for that.
    problems = [*_check_names(conf), *find_bad_values(conf)]
    return problems if maps_given else [*problems, *_check_required(conf)]


def find_bad_values(conf: cfg.ConfigOpts) -> list[ConfigError]:
    """Everything that is wrong with the values of our options.

    :param conf: a configuration object with our options registered.
    :returns: one error for each problem, none if the values are good.
    """
    every = ((GROUP, OPTS), (allowed_paths.GROUP, allowed_paths.OPTS))
    problems = [
        error
        for group, options in every
        for option in options
        if (error := _unreadable(conf, group, option.name)) is not None
    ]
    problems += [*_check_owner(conf), *_check_size(conf)]
    for name in ("state_path", "run_path"):
        if _unreadable(conf, GROUP, name) is None:
            path = _value(conf, GROUP, name)
            problems += _check_path(option_name(GROUP, name), path)
    if _unreadable(conf, allowed_paths.GROUP, "roots") is None:
        for path in _value(conf, allowed_paths.GROUP, "roots"):
            problems += _check_path(allowed_paths.NAME, path)
    return problems + _read_maps(conf)[1]


def find_missing(conf: cfg.ConfigOpts) -> ConfigError | None:
    """Return an error if there is nothing to make user namespaces of.

    :param conf: a configuration object with our options registered.
    """
    for group, name in (
        (LIBVIRT_GROUP, "uid_maps"),
        (LIBVIRT_GROUP, "gid_maps"),
        (GROUP, "subid_owner"),
    ):
        # One that cannot be read is told of elsewhere.
        if _unreadable(conf, group, name) or _value(conf, group, name):
            return None
    return ConfigError(
        option_name(GROUP, "userns_policy"),
        _value(conf, GROUP, "userns_policy"),
        "neither [libvirt] uid_maps and gid_maps nor [lxc_userns] "
        "subid_owner is set; set either",
    )


def option_name(group: str, name: str) -> str:
    """An option as messages name it, ``[group] name``."""
    return f"[{group}] {name}"


def _value(conf: cfg.ConfigOpts, group: str, name: str) -> Any:
    return getattr(getattr(conf, group), name)


def _unreadable(
    conf: cfg.ConfigOpts, group: str, name: str
) -> ConfigError | None:
    try:
        _value(conf, group, name)
    except (cfg.Error, ValueError) as err:
        # What comes before is where oslo.config found it, as it prints it.
        reason = str(err).rpartition("is not valid: ")[2]
        return ConfigError(option_name(group, name), "", reason)
    return None


def _check_owner(conf: cfg.ConfigOpts) -> Iterator[ConfigError]:
    if _unreadable(conf, GROUP, "subid_owner") is not None:
        return
    owner = _value(conf, GROUP, "subid_owner")
    # Whatever getsubids could take for an option is no user either.
    if owner and not _OWNER.fullmatch(owner):
        yield ConfigError(
            option_name(GROUP, "subid_owner"),
            owner,
            "the name or the number of a user is needed",
        )


def _check_size(conf: cfg.ConfigOpts) -> Iterator[ConfigError]:
    for name in ("subid_owner", "range_size"):
        if _unreadable(conf, GROUP, name) is not None:
            return
    size = _value(conf, GROUP, "range_size")
    if has_pool(conf) and size <= TTY_GID:
        yield ConfigError(
            option_name(GROUP, "range_size"),
            str(size),
            f"is too small: guest group {TTY_GID} (tty) has to be mapped",
        )


def _check_path(option: str, path: str) -> Iterator[ConfigError]:
    parts = PurePosixPath(path).parts
    if not path.startswith("/") or ".." in parts or len(parts) < 2:
        yield ConfigError(
            option, path, "an absolute path below / without '..' is needed"
        )


def _check_names(conf: cfg.ConfigOpts) -> list[ConfigError]:
    known = {
        GROUP: [each.name for each in OPTS],
        allowed_paths.GROUP: [each.name for each in allowed_paths.OPTS],
    }
    return find_misnamed(conf, known)


def _check_required(conf: cfg.ConfigOpts) -> Iterator[ConfigError]:
    """Refuse a policy that somebody has written and nothing can keep."""
    if _unreadable(conf, GROUP, "userns_policy") is not None:
        return
    policy = _value(conf, GROUP, "userns_policy")
    place = conf.get_location("userns_policy", GROUP)
    if policy == "required" and place and place.location in _WRITTEN:
        missing = find_missing(conf)
        if missing is not None:
            yield missing


def _read_maps(
    conf: cfg.ConfigOpts,
) -> tuple[IdMaps | None, list[ConfigError]]:
    uid, uid_problems = _read_entries(conf, "uid_maps")
    gid, gid_problems = _read_entries(conf, "gid_maps")
    problems = [*uid_problems, *gid_problems, *_check_together(conf)]
    if not uid or not gid or problems:
        return None, problems
    return IdMaps(IdMap(uid), IdMap(gid)), []


def _read_entries(
    conf: cfg.ConfigOpts, name: str
) -> tuple[tuple[IdMapEntry, ...], list[ConfigError]]:
    """The entries of a map, and all that is wrong with them."""
    error = _unreadable(conf, LIBVIRT_GROUP, name)
    if error is not None:
        return (), [error]
    entries, errors = [], []
    for item in _value(conf, LIBVIRT_GROUP, name) or []:
        try:
            entries.append(IdMapEntry.parse(item))
        except IdMapError as err:
            errors.append(err)
    if entries:
        errors += _broken_rules(name, entries, complete=not errors)
    return tuple(entries), [_map_error(name, err) for err in errors]


def _broken_rules(
    name: str, entries: Sequence[IdMapEntry], *, complete: bool
) -> Iterator[IdMapError]:
    broken = list(broken_rules(entries))
    if name == "gid_maps":
        broken += broken_tty_rules(entries)
    for error in broken:
        # An entry that cannot be read may be the one that is missed.
        if complete or error.rule not in ("guest-root", "tty-unmapped"):
            yield error


def _map_error(name: str, err: IdMapError) -> ConfigError:
    return ConfigError(option_name(LIBVIRT_GROUP, name), err.value, err.reason)


def _check_together(conf: cfg.ConfigOpts) -> Iterator[ConfigError]:
    given = {
        name: _unreadable(conf, LIBVIRT_GROUP, name) is not None
        or bool(_value(conf, LIBVIRT_GROUP, name))
        for name in ("uid_maps", "gid_maps")
    }
    for name, other in (("uid_maps", "gid_maps"), ("gid_maps", "uid_maps")):
        if given[other] and not given[name]:
            yield ConfigError(
                option_name(LIBVIRT_GROUP, name),
                "",
                f"is empty, but {other} is set; set both or neither",
            )
    if _unreadable(conf, GROUP, "subid_owner") is not None:
        return
    owner = _value(conf, GROUP, "subid_owner")
    if owner and any(given.values()):
        yield ConfigError(
            option_name(GROUP, "subid_owner"),
            owner,
            "is set beside [libvirt] uid_maps or gid_maps; every instance "
            "has either these maps or a lease from the pool",
        )
