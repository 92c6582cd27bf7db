# SPDX-License-Identifier: Apache-2.0
"""Running domains, by libvirt's status files and the kernel.

libvirtd is not asked: while it runs a hook it answers no one, and a hook of
ours may be waiting for a lock that the asker holds. A domain runs for as long
as there is a ``libvirt_lxc`` for it, which tells its name by ``--name``;
libvirt's status file adds the UUID, once the domain has started
(virLXCProcessStart, virDomainObjSave). Where that cannot be told, the domain
may be any of its name.

The processes of every libvirtd in this PID namespace count, whatever mount
namespace it is in: each is asked in its own. Those in others do not, for
containers have programs of any name; nor do those of other users than root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lxc_userns.libvirtd.init import find_init
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
_ROOT = "0"


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

    @contextmanager
    def init_process(self) -> Iterator[Process]:
        """Hold its first process.

        :raises ProcessLookupError: if it has none yet, or none any more.
        """
        init = find_init(self.controller)
        if init is None:
            raise ProcessLookupError(f"{self.name} has no first process")
        with init:
            yield init


class RunningDomains:
    """The running LXC domains of this host.

    :param directory: where libvirt keeps its status files.
    """

    def __init__(self, directory: Path = STATUS_DIRECTORY) -> None:
        self._directory = directory

    def find(self, name: str, uuid: str | None = None) -> RunningDomain | None:
        """Return the running domain of a name, None if none runs.

        :param uuid: of which it may be; None for whichever.
        """
        for each in self.list():
            if each.name == name and (uuid is None or each.may_be(uuid)):
                return each
        return None

    def list(self) -> Iterator[RunningDomain]:
        """Yield all running domains."""
        for process, name in _controllers():
            uuid = self._uuid(process, name)
            yield RunningDomain(name, int(process.pid), uuid)

    def _uuid(self, process: Process, name: str) -> str | None:
        # It ends with the domain, and is written anew at each start. Another
        # libvirtd may have mounted a directory of its own there.
        file = f"{self._directory}/{name}.xml".lstrip("/")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with (
            suppress(OSError),
            process.open_root() as root,
            open(
                os.open(file, flags, dir_fd=root),
                encoding="utf-8",
                errors="replace",
            ) as stream,
        ):
            return parse_uuid(stream.read(_LONGEST), int(process.pid))
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


def _controllers() -> Iterator[tuple[Process, str]]:
    """Yield each controller, held, with the name of its domain."""
    with Process("self") as this:
        ours = _namespaces(this)
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if _read_program(pid) != _CONTROLLER:
            continue
        with suppress(ProcessLookupError), Process(int(pid)) as process:
            name = process.option("--name")
            # A container can have a program of that name, and so can users.
            if (
                name is not None
                and process.status("Uid") == [_ROOT]
                and _may_be_in(process, ours)
            ):
                yield process, name


def _read_program(pid: str) -> str:
    """Return the base name of a process's program, empty if it has ended."""
    try:
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED)
        return os.path.basename(program)
    except PermissionError:
        # Of one with more capabilities: what it calls itself has to do.
        with suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        pass
    return ""


def _may_be_in(
    process: Process, namespaces: tuple[tuple[int, int], ...]
) -> bool:
    try:
        return _namespaces(process) == namespaces
    except PermissionError:
        return True


def _namespaces(process: Process) -> tuple[tuple[int, int], ...]:
    return process.user_namespace, process.namespace("pid")
