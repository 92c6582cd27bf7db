# SPDX-License-Identifier: Apache-2.0
"""The session keyring that containers inherit from libvirt's daemon.

A process has the keyring of the one that made it, whatever its user namespace
(:manpage:`session-keyring(7)`); whoever inherits none has the user session
keyring of the own user namespace. systemd gives each service a keyring, with
the ID of this run of it as a key, unless ``KeyringMode=inherit`` is set
(:manpage:`systemd.exec(5)`).

That key proves that there is a keyring. Nothing is proved by its absence, for
any container can take it out; so there is a mark in the environment besides,
from the drop-in that sets the mode.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import PurePosixPath

from lxc_userns.findings import Finding
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.libvirtd.daemon import Daemon
from lxc_userns.linux import keyrings
from lxc_userns.linux.process import Process

_KEY = "invocation_id"
_RUN = "INVOCATION_ID"
_MARK = ("LXC_USERNS_KEYRING", "inherit")
_SYSTEMD = ("", "name=systemd")


def check(
    daemon: Daemon | None,
    process_of: Callable[[int], Process] = Process,
    read_keys: Callable[[str], Iterable[bytes]] = keyrings.read_keys_of_root,
) -> Finding:
    """Return whether containers share the session keyring of the daemon.

    :param process_of: opens a process.
    :param read_keys: as :func:`keyrings.read_keys_of_root`.
    """
    if daemon is None:
        return warned(
            "libvirtd or virtlxcd is not found", "see the check of libvirt"
        )
    with process_of(daemon.pid) as process:
        unit = find_unit(process.cgroups)
        run = process.variable(_RUN)
        is_marked = process.variable(_MARK[0]) == _MARK[1]
    if unit is None:
        return warned(
            f"{daemon} is no service of systemd; whether it has a session "
            "keyring, which all containers would share, cannot be told",
            "have systemd start it, with KeyringMode=inherit",
        )
    found = {*read_keys(_KEY)}
    return evaluate(str(daemon), unit, run, found, is_marked=is_marked)


def find_unit(cgroups: dict[str, str]) -> str | None:
    """Return the service of systemd that a process is, None if it is none.

    :param cgroups: as :attr:`Process.cgroups`.
    """
    for hierarchy in _SYSTEMD:
        name = PurePosixPath(cgroups.get(hierarchy, "/")).name
        if name.endswith(".service"):
            return name
    return None


def evaluate(
    daemon: str,
    unit: str,
    run: str | None,
    known: Collection[bytes],
    *,
    is_marked: bool,
) -> Finding:
    """Return whether a daemon has a session keyring of systemd's.

    :param daemon: the daemon, for messages.
    :param unit: its service.
    :param run: ID of this run of it, in hexadecimal digits.
    :param known: IDs of runs of services whose keyring the kernel has.
    :param is_marked: whether it was started with the drop-in.
    """
    identifier = None
    with suppress(ValueError):
        identifier = bytes.fromhex(run or "")
    if identifier in known or not is_marked:
        return failed(
            f"{daemon} has a session keyring of systemd's, which all "
            "containers share: one can read, change and revoke the keys of "
            "another",
            "install etc/systemd/keyring.conf as "
            f"/etc/systemd/system/{unit}.d/lxc-userns.conf, with nothing "
            f"after it that sets KeyringMode; systemctl daemon-reload, "
            f"restart {unit} and all containers",
        )
    return passed(
        f"{daemon} has no session keyring that containers could share"
    )
