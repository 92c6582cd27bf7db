# SPDX-License-Identifier: Apache-2.0
"""Running ID maps of a host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxc_userns.idmap import ID_LIMIT, Kind
from lxc_userns.linux.process import Process, Rows
from lxc_userns.linux.processes import in_other_user_namespaces
from lxc_userns.subid.owners import IdOwner
from lxc_userns.text import printable

if TYPE_CHECKING:
    from lxc_userns.libvirtd.status import RunningDomains


@dataclass(frozen=True, slots=True)
class RunningIdMap:
    """A process with other ID maps than ours.

    :param pid: its process ID.
    :param kind: of which kind its IDs are.
    :param ids: host IDs that it has.
    :param name: what it is, as far as is known.
    """

    pid: int
    kind: Kind
    ids: range
    name: str = ""

    @property
    def holder(self) -> IdOwner:
        """The same as a holder of IDs."""
        name = self.name or f"the running process {self.pid}"
        shown = f"{self.ids.start}:{len(self.ids)}"
        return IdOwner(f"{name} ({shown})", self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTable:
    """Processes in user namespaces of a host.

    The kernel is asked, not libvirt alone, so that containers of other
    runtimes count as well.

    :param find: finds them.
    :param open: opens one by its process ID.
    """

    find: Callable[[], Iterable[Process]] = in_other_user_namespaces
    open: Callable[[int], AbstractContextManager[Process]] = Process

    def id_maps(self) -> Iterator[RunningIdMap]:
        """Yield their ID maps."""
        for process in self.find():
            with suppress(ProcessLookupError):
                pid = int(process.pid)
                uid, gid = process.uid_map, process.gid_map
                for ids in _ranges(uid):
                    yield RunningIdMap(pid, "uid", ids)
                for ids in _ranges(gid):
                    yield RunningIdMap(pid, "gid", ids)

    def with_names(
        self, found: Iterable[RunningIdMap], running: RunningDomains
    ) -> list[RunningIdMap]:
        """Return the same with names, if they can still be found out.

        :param running: libvirt's containers, looked at once, and only if
            there is anything to be named.
        """
        maps = [*found]
        domains = running.list() if maps else ()
        containers = {each.controller: each.name for each in domains}
        return [
            replace(each, name=self._name(each.pid, containers))
            for each in maps
        ]

    def _name(self, pid: int, containers: Mapping[int, str]) -> str:
        with suppress(ProcessLookupError), self.open(pid) as process:
            container = containers.get(process.parent)
            if container is not None:
                return f"the running container {container}"
            # A process may call itself what it likes.
            return f"the running process {pid} ({printable(process.name)})"
        return ""


def _ranges(rows: Rows) -> Iterator[range]:
    for inside, outside, count in rows:
        # Who sees all IDs as they are is no container with a range.
        if inside != outside or count < ID_LIMIT // 2:
            yield range(outside, outside + count)
