# SPDX-License-Identifier: Apache-2.0
"""Settings of one call of libvirt's hook, without oslo.config if possible.

To load oslo.config takes longer than all that a hook does, and libvirtd waits
for it. So the values of the last call are kept in memory, with the identity of
each file that they depend on; if any has changed, all is read anew.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from lxc_userns.config.settings import Settings
from lxc_userns.linux import directory

if TYPE_CHECKING:
    from oslo_config import cfg

#: Directory for the values, root's alone; it is gone after a reboot.
PLACE: Final = "/run/lxc-userns-hook"
_NAME: Final = "settings.json"
_LONGEST: Final = 1 << 20
#: Nanoseconds that a file has to be older than its reading: another change in
#: the same moment would not show in its times.
_SETTLED: Final = 2 * 10**9
#: What oslo.config reads beside files.
_VARIABLES: Final = ("OS_", "SNAP")
_PROJECT: Final = "lxc-userns"
#: Modules of which a change is that of the version.
_MODULES: Final = ("options.py", "reading.py", "settings.py", "snapshot.py")

#: Device, inode, time of change in ns and size; None if there is no such file.
Identity = list[int] | None


def load_settings(files: list[str] | None, place: str = PLACE) -> Settings:
    """Return the settings that a configuration gives now.

    :param files: configuration files instead of the usual ones.
    :param place: directory for the values, an absolute path.
    :raises ConfigError: if a file is missing or malformed.
    """
    if any(each.startswith(_VARIABLES) for each in os.environ):
        return Settings.from_conf(_read_conf(files))
    values = None
    # Whatever is wrong with what is kept, it is made anew.
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        values = _read(files, place)
    if values is not None:
        return Settings.from_values(values)
    return _load(files, place)


def forget(place: str = PLACE) -> None:
    """Remove what is kept.

    :param place: as for :func:`load_settings`.
    """
    with suppress(OSError):
        os.unlink(os.path.join(place, _NAME))
    with suppress(OSError):  # There may be keepers of others.
        os.rmdir(place)


def _read_conf(files: list[str] | None) -> cfg.ConfigOpts:
    from lxc_userns.config.load import load_conf

    return load_conf(files)


def _read(files: list[str] | None, place: str) -> dict[str, Any] | None:
    """Return the values that are kept, None if a file has changed since."""
    with directory.open_private(place, 0o700, create=False) as parent:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(_NAME, flags, dir_fd=parent), "rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                return None
            kept = json.loads(stream.read(_LONGEST))
    known: dict[str, Identity] = kept["identities"]
    if kept["files"] != files or not known.keys() >= {*_candidates(files)}:
        return None
    if known != identify(known):
        return None
    values: dict[str, Any] = kept["values"]
    return values


def _load(files: list[str] | None, place: str) -> Settings:
    """Read the configuration, and keep its values if all is well."""
    began = time.time_ns()
    before = identify(_candidates(files))
    conf = _read_conf(files)
    settings = Settings.from_conf(conf)
    after = identify({*before, *_files_of(conf)})
    is_settled = all(
        each is None or each[2] < began - _SETTLED for each in after.values()
    )
    is_same = all(after[path] == before[path] for path in before)
    if is_settled and is_same and _can_be_kept(settings, conf):
        kept = {
            "files": files,
            "identities": after,
            "values": dict(settings.values),
        }
        with suppress(OSError), directory.open_private(place, 0o700) as fd:
            directory.replace_file(fd, _NAME, json.dumps(kept))
    return settings


def _can_be_kept(settings: Settings, conf: cfg.ConfigOpts) -> bool:
    """Tell whether the values alone make the same settings again."""
    if conf.config_source:
        return False  # Another machine may have it.
    values: Mapping[str, Any] = json.loads(json.dumps(dict(settings.values)))
    again = Settings.from_values(values)
    return not settings.find_problems() and (again.values, again.maps) == (
        settings.values,
        settings.maps,
    )


def identify(paths: Iterable[str]) -> dict[str, Identity]:
    """Return the identity of files and directories, by path."""
    return {path: _identify(path) for path in paths}


def _identify(path: str) -> Identity:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # That of a directory can stay when others are listed in it, its time not.
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return [status.st_dev, status.st_ino, status.st_ctime_ns, size]


def _candidates(files: list[str] | None) -> list[str]:
    """Return where configuration is looked for, and what it is read by."""
    home = os.path.expanduser("~")
    package = os.path.dirname(__file__)
    return [
        *(files or ()),
        *(f"{package}/{name}" for name in _MODULES),
        *(
            os.path.join(place, f"{_PROJECT}{suffix}")
            for place in (
                f"{home}/.{_PROJECT}",
                home,
                f"/etc/{_PROJECT}",
                "/etc",
            )
            for suffix in (".conf", ".conf.d")
        ),
    ]


def _files_of(conf: cfg.ConfigOpts) -> list[str]:
    """Return the files that were read, and their directories."""
    found = [*(conf.config_file or ())]
    for each in conf.config_dir or ():
        found.append(each)
        with suppress(FileNotFoundError, NotADirectoryError):
            found += (entry.path for entry in os.scandir(each))
    return found
