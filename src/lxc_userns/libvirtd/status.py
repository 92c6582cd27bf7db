# SPDX-License-Identifier: Apache-2.0
"""Running domains, by libvirt's status files and the kernel.

libvirtd is not asked: while it runs a hook it answers nobody, and a hook of
ours may be waiting for a lock that the asker holds. A domain runs for as long
as there is a ``libvirt_lxc`` for it, which tells its name by ``--name``;
libvirt's status file adds the UUID, once the domain has started
(virLXCProcessStart, virDomainObjSave).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lxc_userns.linux.process import Process

STATUS_DIRECTORY = Path("/run/libvirt/lxc")
#: Base name of the controller's program.
_CONTROLLER = "libvirt_lxc"
#: The kernel's, after an upgrade of libvirt (:manpage:`proc_pid_exe(5)`).
_DELETED = " (deleted)"
# libvirt writes the file itself, escapes what others chose, and puts the UUID
# before all that can be of several lines.
_STATE = re.compile(r"<domstatus\b[^>]* pid='(\d+)'")
_UUID = re.compile(r"</name>\s*<uuid>([0-9a-f-]{36})</uuid>")
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class RunningDomain:
    """A domain that has processes, running or paused.

    :param name: its name.
    :param controller: process ID of its ``libvirt_lxc``.
    :param uuid: its UUID; None while it starts, and nothing tells it yet.
    """

    name: str
    controller: int
    uuid: str | None

    def may_be(self, uuid: str) -> bool:
        """Tell whether this can be the domain of a UUID."""
        return self.uuid in (None, uuid)


class RunningDomains:
    """The running LXC domains of this host.

    :param directory: where libvirt keeps its status files.
    """

    def __init__(self, directory: Path = STATUS_DIRECTORY) -> None:
        self._directory = directory

    def find(self, name: str) -> RunningDomain | None:
        """Return the running domain of a name, None if none runs."""
        found = (each for each in self.list() if each.name == name)
        return next(found, None)

    def list(self) -> Iterator[RunningDomain]:
        """Yield all running domains."""
        for pid, name in _controllers():
            yield RunningDomain(name, pid, self._uuid(name, pid))

    def _uuid(self, name: str, controller: int) -> str | None:
        # It ends with the domain, and is written anew at each start.
        with (
            suppress(OSError),
            open(self._directory / f"{name}.xml", encoding="utf-8") as file,
        ):
            return parse_uuid(file.read(_LONGEST), controller)
        return None


def parse_uuid(status: str, controller: int) -> str | None:
    """Return the UUID in a status file.

    :param status: text of the file.
    :param controller: process ID that it has to be about.
    :returns: None if it is of another start.
    """
    state, uuid = _STATE.search(status), _UUID.search(status)
    if state is None or uuid is None or int(state[1]) != controller:
        return None
    return uuid[1]


def _controllers() -> Iterator[tuple[int, str]]:
    """Yield process ID and domain name of each controller."""
    with Process("self") as this:
        ours = _namespaces(this)
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # It has ended, or tells nothing.
            program = os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED)
            if os.path.basename(program) != _CONTROLLER:
                continue
            with Process(int(pid)) as process:
                name = process.option("--name")
                # A container can have a program of that name as well.
                if name is not None and _namespaces(process) == ours:
                    yield int(pid), name


def _namespaces(process: Process) -> tuple[tuple[int, int], ...]:
    return process.user_namespace, process.namespace("pid")
