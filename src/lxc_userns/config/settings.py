# SPDX-License-Identifier: Apache-2.0
"""Values of our options, read once for each operation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from lxc_userns.arguments import check_type
from lxc_userns.config.groups import GROUP, PRIVILEGED_GROUP, option_name
from lxc_userns.config.id_maps import (
    GID_MAPS,
    SUBID_OWNER,
    UID_MAPS,
    parse_id_maps,
)
from lxc_userns.exceptions import ConfigError
from lxc_userns.idmap import TTY_GID, IdMaps
from lxc_userns.rootfs.archive.limits import UnpackLimits
from lxc_userns.spec.policy import Policy

# libvirt's hook has values of before, and does without what reads options.
if TYPE_CHECKING:
    from oslo_config import cfg

#: The options of the ID maps, as messages name them.
MAPS: Final = (UID_MAPS, GID_MAPS)
_PATHS: Final = tuple(
    option_name(GROUP, each) for each in ("state_path", "run_path")
)
_ROOTS: Final = option_name(PRIVILEGED_GROUP, "roots")
_POLICY: Final = option_name(GROUP, "userns_policy")
_OWNER: Final = re.compile(r"[^\s:\0#-][^\s:\0]*")

_T = TypeVar("_T")


class _Value(Generic[_T]):
    """Attribute of settings: the value of the option of that name."""

    def __init__(self, group: str = GROUP) -> None:
        self._group = group

    def __set_name__(self, _owner: type, name: str) -> None:
        self._option = option_name(self._group, name)

    def __get__(self, settings: Settings, _owner: type) -> _T:
        settings.check_value(self._option)
        value: _T = settings.values[self._option]
        return value


class _Path(_Value[str]):
    """The same for a path, without needless slashes and dots."""

    def __get__(self, settings: Settings, owner: type) -> str:
        return _normalised(super().__get__(settings, owner))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Values of our options at one moment.

    The attribute of an option raises :class:`ConfigError` if its value cannot
    be used, whatever the others are like.

    :param values: values by ``[group] name``, if they can be read, also those
        that cannot be used.
    :param bad_values: one error for each problem of a value.
    :param bad_maps: those of the ID maps alone.
    :param bad_names: one error for each name that is nearly one of ours.
    :param maps: ID maps of ``[libvirt]``, if they are set and good.
    :param missing: error if there is nothing to make user namespaces of.
    :param bad_policy: the same, if somebody has written a policy that needs
        them.
    """

    values: Mapping[str, Any]
    bad_values: tuple[ConfigError, ...]
    bad_maps: tuple[ConfigError, ...]
    bad_names: tuple[ConfigError, ...]
    maps: IdMaps | None
    missing: ConfigError | None
    bad_policy: tuple[ConfigError, ...]

    subid_owner = _Value[str]()
    range_size = _Value[int]()
    rootfs_strategy = _Value[str]()
    unmapped_ids = _Value[str]()
    userns_policy = _Value[Policy]()
    state_path = _Path()
    run_path = _Path()
    shift_workers = _Value[int]()
    unpack_max_bytes = _Value[int]()
    unpack_max_inodes = _Value[int]()
    unpack_max_memory = _Value[int]()
    max_processes = _Value[int]()
    seclabel = _Value[str]()
    hook_timeout = _Value[int]()
    hook_linger = _Value[int]()
    unmarked_domains = _Value[str]()
    roots = _Value[list[str]](PRIVILEGED_GROUP)

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Settings:
        """Read all options.

        :param conf: a configuration object with our options registered.
        """
        # Only here, for hooks of libvirt have no time for it.
        from lxc_userns.config import reading

        values, unreadable = reading.read_values(conf)
        missing = _find_missing(values)
        is_bad = missing and reading.is_required(conf, values)
        return cls._of(
            values,
            unreadable,
            bad_names=tuple(reading.find_misnamed(conf)),
            bad_policy=(missing,) if missing and is_bad else (),
        )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Return settings of values in which nothing was wrong.

        :param values: what the settings had that were read.
        """
        return cls._of(values, {}, (), ())

    @classmethod
    def _of(
        cls,
        values: Mapping[str, Any],
        unreadable: Mapping[str, ConfigError],
        bad_names: tuple[ConfigError, ...],
        bad_policy: tuple[ConfigError, ...],
    ) -> Settings:
        maps, bad_maps = parse_id_maps(values, unreadable)
        return cls(
            values=values,
            bad_values=(
                *(err for name, err in unreadable.items() if name not in MAPS),
                *_check_values(values),
                *bad_maps,
            ),
            bad_maps=tuple(bad_maps),
            bad_names=bad_names,
            maps=maps,
            missing=_find_missing(values),
            bad_policy=bad_policy,
        )

    def check_value(self, option: str) -> None:
        """Check the value of one option, whatever the others are like.

        :param option: its name, as ``[lxc_userns] state_path``.
        :raises ConfigError: if it cannot be used.
        """
        for problem in self.bad_values:
            if problem.option == option:
                raise problem

    def find_problems(self, *, maps_given: bool = False) -> list[ConfigError]:
        """Return everything that is wrong with options and names near them.

        :param maps_given: whether there are ID maps besides, so that the
            policy may ask for a user namespace.
        """
        # What is misspelt comes before what is missing for that.
        problems = [*self.bad_names, *self.bad_values]
        return problems if maps_given else [*problems, *self.bad_policy]

    @property
    def has_pool(self) -> bool:
        """Whether each instance is to have a lease from a pool."""
        return bool(self._as_written(SUBID_OWNER))

    @property
    def refuses_held(self) -> bool:
        """Whether ID maps may have no host IDs that others hold."""
        # A word that cannot be read allows nothing.
        name = option_name(GROUP, "held_ids")
        return bool(self.values.get(name, "refuse") == "refuse")

    @property
    def id_maps(self) -> IdMaps | None:
        """ID maps of the configuration, whoever has their host IDs.

        None if ``uid_maps`` and ``gid_maps`` are empty: then user namespaces
        are off, or each instance has a lease.

        :raises ConfigError: if a value breaks a rule, an option has nearly
            the name of one of ours, or ``userns_policy`` asks for what there
            is not; every problem of the maps is in the text.
        """
        problems = [*self.bad_names, *self.bad_maps, *self.bad_policy]
        if len(problems) == 1:
            raise problems[0]
        if problems:
            names = ", ".join(dict.fromkeys(each.option for each in problems))
            raise ConfigError(names, "", "; ".join(map(str, problems)))
        return self.maps

    @property
    def unpack_limits(self) -> UnpackLimits:
        """Limits of unpacking one archive.

        :raises ConfigError: if a value cannot be used.
        """
        return UnpackLimits(
            max_bytes=self.unpack_max_bytes,
            max_inodes=self.unpack_max_inodes,
            max_memory=self.unpack_max_memory,
        )

    def load_id_maps(self) -> IdMaps | None:
        """Return the ID maps for every instance; see :func:`load_id_maps`."""
        maps = self.id_maps
        if maps is not None:
            self.check_held(maps)
        elif self.has_pool:
            raise ConfigError(
                SUBID_OWNER,
                self._as_written(SUBID_OWNER),
                "is set, so that there are no ID maps for all: each instance "
                "has a lease; call UserNamespaceManager.allocate or prepare, "
                "and take the id_maps of what it returns",
            )
        return maps

    def check_held(
        self, id_maps: IdMaps, names: tuple[str, str] = MAPS
    ) -> None:
        """Refuse IDs that others hold; see :func:`check_held`."""
        if self.refuses_held:
            from lxc_userns.subid.held_ids import check_unheld

            check_unheld(id_maps, names, self._as_written(SUBID_OWNER))

    def _as_written(self, option: str) -> str:
        """Return a value that may not be usable."""
        if option not in self.values:
            self.check_value(option)
        value: str = self.values[option]
        return value


def load_id_maps(conf: cfg.ConfigOpts) -> IdMaps | None:
    """Return the ID maps that the configuration gives to every instance.

    :param conf: a configuration object with our options registered.
    :returns: the maps, or None if neither they nor a pool are configured:
        then user namespaces are off.
    :raises ConfigError: if a pool is configured, so that each instance has
        ID maps of its own, by
        :meth:`~lxc_userns.UserNamespaceManager.allocate`; if a value breaks a
        rule, an option has nearly the name of one of ours, or
        ``userns_policy`` asks for what there is not, with every problem in
        the text; or if others hold any of the host IDs, as
        :func:`check_held`.
    """
    from oslo_config import cfg

    check_type("load_id_maps", "conf", conf, cfg.ConfigOpts)
    return Settings.from_conf(conf).load_id_maps()


def check_held(
    conf: cfg.ConfigOpts, id_maps: IdMaps, names: tuple[str, str] = MAPS
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
    Settings.from_conf(conf).check_held(id_maps, names)


def _find_missing(values: Mapping[str, Any]) -> ConfigError | None:
    # One that cannot be read is told of elsewhere.
    if any(values.get(each, True) for each in (*MAPS, SUBID_OWNER)):
        return None
    return ConfigError(
        _POLICY,
        values.get(_POLICY, ""),
        "neither [libvirt] uid_maps and gid_maps nor [lxc_userns] "
        "subid_owner is set; set either",
    )


def _check_values(values: Mapping[str, Any]) -> Iterator[ConfigError]:
    owner = values.get(SUBID_OWNER)
    # Whatever getsubids could take for an option is no user either.
    if owner and not _OWNER.fullmatch(owner):
        yield ConfigError(
            SUBID_OWNER, owner, "the name or the number of a user is needed"
        )
    name = option_name(GROUP, "range_size")
    size = values.get(name)
    if owner and size is not None and size <= TTY_GID:
        yield ConfigError(
            name,
            str(size),
            f"is too small: guest group {TTY_GID} (tty) has to be mapped",
        )
    yield from _check_paths(values)
    for path in values.get(_ROOTS, ()):
        yield from _check_path(_ROOTS, path)


def _check_paths(values: Mapping[str, Any]) -> Iterator[ConfigError]:
    paths = [(name, values[name]) for name in _PATHS if name in values]
    problems = [err for each in paths for err in _check_path(*each)]
    yield from problems
    if problems or len(paths) < len(_PATHS):
        return
    (_, state), (name, run) = paths
    one, other = (f"{_normalised(each)}/" for each in (state, run))
    # One is closed to those who pass through the other, and what is in it
    # would have the names of instances.
    if one.startswith(other) or other.startswith(one):
        reason = f"state_path is {state}, and neither may be in the other"
        yield ConfigError(name, run, f"{reason}; give another path")


def _check_path(option: str, path: str) -> Iterator[ConfigError]:
    plain = _normalised(path)
    if (
        not path.startswith("/")
        or plain == "/"
        or "/../" in f"{plain}/"
        or "\0" in path
    ):
        yield ConfigError(
            option, path, "an absolute path below / without '..' is needed"
        )


def _normalised(path: str) -> str:
    """Return an absolute path without needless slashes and dots."""
    parts = (part for part in path.split("/") if part not in ("", "."))
    return "/" + "/".join(parts)
