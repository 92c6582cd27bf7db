# SPDX-License-Identifier: Apache-2.0
"""The process that answers at ``lxc:///``, and the mounts that it has."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lxc_userns.linux import directory, netlink
from lxc_userns.linux.process import Process

if TYPE_CHECKING:
    from lxc_userns.linux.mounts import Mount

#: Where libvirt keeps a log of each container.
LOG_DIRECTORY = "/var/log/libvirt/lxc"
_RUN = Path("/run/libvirt")
#: libvirt's client takes the first that is there.
_SOCKETS = ("virtlxcd-sock", "libvirt-sock")
_NAMES = ("virtlxcd", "libvirtd")
_PID_DIRECTORIES = (_RUN.parent, _RUN)
_CREDENTIALS = struct.Struct("3i")
_LONGEST = 5.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """libvirtd or virtlxcd.

    :param name: which of the two.
    :param pid: its process ID.
    :param mounts: all that it has mounted.
    """

    name: str
    pid: int
    mounts: tuple[Mount, ...]

    @property
    def network_devices(self) -> frozenset[str]:
        """Names of the network devices that it can use (:manpage:`proc(5)`).

        :raises OSError: if it has ended.
        """
        lines = Path(f"/proc/{self.pid}/net/dev").read_text().splitlines()
        # Two are the heading; a name may be followed by its numbers at once.
        return frozenset(line.partition(":")[0].strip() for line in lines[2:])

    def kind_of_device(self, name: str) -> str:
        """Return what kind of network device one is that it can use.

        :returns: as :func:`~lxc_userns.linux.netlink.read_kind`.
        :raises OSError: if there is none, or the daemon has ended.
        """
        with (
            Process(self.pid) as process,
            process.opened_namespace("net") as namespace,
        ):
            return netlink.read_kind(namespace, name)

    def open_log(self, name: str) -> int | None:
        """Open the log that it and its own process keep of a container.

        :param name: the container's name.
        :returns: descriptor of a regular file; None if there is none.
        :raises OSError: if it is something else, or cannot be read.
        """
        path = f"/proc/{self.pid}/root{LOG_DIRECTORY}"
        with suppress(FileNotFoundError), directory.opened(path) as logs:
            return directory.open_regular(logs, f"{name}.log")
        return None

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


def _find_peers() -> Iterator[int]:
    """Yield processes that listen; systemd, if it does for the daemon."""
    paths = [str(_RUN / name) for name in _SOCKETS]
    path = next(filter(os.path.exists, paths), paths[-1])
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.settimeout(_LONGEST)
        client.connect(path)
        credentials = client.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        pid, _, _ = _CREDENTIALS.unpack(credentials)
        # 0 is a process that this PID namespace does not see.
        if pid > 0:
            yield pid


def find_pids(places: Iterable[Path] = _PID_DIRECTORIES) -> Iterator[int]:
    """Yield what files of process IDs say, which may be of before.

    :param places: directories of such files.
    """
    for place in places:
        for name in _NAMES:
            with suppress(OSError, ValueError):
                text = (place / f"{name}.pid").read_text(encoding="ascii")
                yield int(text)


def find(
    find_peers: Callable[[], Iterable[int]] = _find_peers,
    find_pids: Callable[[], Iterable[int]] = find_pids,
    process_of: Callable[[int | str], Process] = Process,
) -> Daemon | None:
    """Return the daemon, None if it is not found or tells nothing.

    :param find_peers: finds the processes that listen.
    :param find_pids: finds others that may be it.
    :param process_of: opens a process.
    """
    for pid in (*find_peers(), *find_pids()):
        with (
            suppress(OSError),  # It has ended, or is not ours to look at.
            process_of(pid) as process,
            process_of("self") as this,
        ):
            name = process.name
            # Who has another can call itself anything, and mount at will.
            is_ours = process.user_namespace == this.user_namespace
            if name in _NAMES and is_ours:
                return Daemon(name, pid, tuple(process.mounts))
    return None
