# SPDX-License-Identifier: Apache-2.0
"""The hierarchy ``name=systemd`` of version 1, where all containers share it.

Without systemd-machined libvirt makes its top belong to the root of each
container that it starts (virCgroupSetOwner). It limits nothing, but systemd
in a container ends when it cannot write there any more.
"""

from __future__ import annotations

from lxc_userns.exceptions import InstanceError
from lxc_userns.idmap import IdMaps
from lxc_userns.libvirtd import daemon
from lxc_userns.libvirtd.status import RunningDomain, RunningDomains
from lxc_userns.linux import systemd
from lxc_userns.linux.mounts import read_mounts
from lxc_userns.linux.process import Process

_NAME = "name=systemd"


def check_start(
    name: str, maps: IdMaps | None, running: RunningDomains
) -> None:
    """Check that no systemd loses its control groups by a start.

    :param name: the container that is to start.
    :param maps: its ID maps, None if it is to have none.
    :param running: what runs.
    :raises InstanceError: if one does, with a remedy.
    """
    if maps is None or not _is_shared():
        return
    for each in running.list():
        if each.name != name and _loses(each, maps.shift_uid(0)):
            raise InstanceError(
                name,
                f"cannot start beside {each.name}, which runs systemd with "
                "other ID maps, and would lose its control groups: libvirt "
                f"gives {_NAME} of version 1 to one container at a time; "
                "install systemd-container, or stop that one first",
            )


def _is_shared() -> bool:
    if systemd.has_machined():
        return False
    found = daemon.find()
    mounts = read_mounts() if found is None else found.mounts
    return any(_NAME in mount.fs_options for mount in mounts)


def _loses(domain: RunningDomain, owner: int | None) -> bool:
    try:
        with domain.init_process() as init:
            return init.program == "systemd" and _root(init) not in (0, owner)
    except OSError:
        return False  # It has ended.


def _root(init: Process) -> int:
    """Return the host ID of a container's root, 0 if that is the host's."""
    for first, host, _ in init.uid_map:
        if first == 0:
            return host
    return 0
