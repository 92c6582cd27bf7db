# SPDX-License-Identifier: Apache-2.0
"""Comparison of a container with the expectation; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from lxc_userns.idmap import TTY_GID, IdMap, IdMaps
from lxc_userns.spec.requirements import CAPABILITIES, Mode
from lxc_userns.text import escape
from lxc_userns.verification import compare_mounts
from lxc_userns.verification.compare_mounts import OF_NETWORKS

if TYPE_CHECKING:
    from lxc_userns.linux.mounts import Mount
    from lxc_userns.linux.process import Rows
    from lxc_userns.verification.expectation import Expectation, View
    from lxc_userns.verification.observed import Node, Observed

#: What the namespaces are called, by the kernel's names.
_NAMES: Final = {
    "mnt": "mount",
    "pid": "PID",
    "net": "network",
    "ipc": "IPC",
    "uts": "UTS",
}
#: Numbers of the devices that every container has: null, zero, full, random,
#: urandom and tty (virLXCControllerPopulateDevices); that by which terminals
#: are made; and that of whiteouts, which are no devices and anybody's to make
#: (mknod(2)).
_HARMLESS: Final = frozenset(
    {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (0, 0)}
)
#: A container can make any number of differences out of one.
_MOST_TOLD: Final = 20
#: What filesystems of the kernel show, by their types.
_SHOWN: Final = {
    "bpf": "BPF objects",
    "configfs": "kernel objects",
    "debugfs": "kernel's insides",
    "devtmpfs": "devices",
    "efivarfs": "firmware variables",
    "proc": "processes",
    "pstore": "crash records",
    "securityfs": "security settings",
    "selinuxfs": "security policy",
    "sysfs": "network",
    "tracefs": "kernel's insides",
}
#: What libvirt mounts read-only in each container without ID maps of its own,
#: if the host has it mounted (lxcBasicMounts): filesystem and place.
_OF_LIBVIRT: Final = {
    "securityfs": "/sys/kernel/security",
    "selinuxfs": "/sys/fs/selinux",
}


@dataclass(frozen=True, slots=True)
class VerifiedInstance:
    """A running container that is what was promised.

    :param name: its name.
    :param mode: ``private`` or ``host``.
    :param pid: host's process ID of its first process.
    :param uid_map: the rows of that process's ``uid_map``, written as the
        configuration writes ID maps.
    :param gid_map: the rows of its ``gid_map``.
    :param was_verified: whether it had been verified since it last started;
        None if it is not ours.
    """

    name: str
    mode: Mode
    pid: int
    uid_map: str
    gid_map: str
    was_verified: bool | None = None


def describe(expectation: Expectation, observed: Observed) -> VerifiedInstance:
    """Describe a container that was found to be as promised."""
    return VerifiedInstance(
        expectation.name,
        expectation.mode,
        observed.pid,
        _show(observed.uid_map),
        _show(observed.gid_map),
    )


def mismatches(
    expectation: Expectation, observed: Observed, *, started: bool = False
) -> Iterator[str]:
    """Yield how a container differs from what was promised.

    :param started: whether it has just been started. Later, what its root has
        unmounted or covered is its own affair.
    :returns: a clause for each of the first differences.
    """
    every = _all_mismatches(expectation, observed, started)
    yield from islice(every, _MOST_TOLD)
    if next(every, None) is not None:
        yield "and more"


def _all_mismatches(
    expectation: Expectation, observed: Observed, started: bool
) -> Iterator[str]:
    if expectation.id_maps is not None:
        yield from _maps(expectation.id_maps, observed)
        yield from _terminals(expectation.id_maps, observed)
        for path, names in observed.writable:
            yield (
                f"its root can write in {path} on the host: {names}; chown "
                "them to root, after each start of it"
            )
    yield from _namespaces(expectation, observed)
    yield from _capabilities(expectation, observed)
    yield from _label(expectation, observed)
    yield from _devices(expectation, observed)
    for view in expectation.views:
        yield from _view(view, observed)
    # In the host's user namespace it can mount anything itself, later.
    if started or expectation.id_maps is not None:
        yield from compare_mounts.unexpected_mounts(expectation, observed)
        yield from _kernel_files(expectation, observed)
    if started:
        yield from compare_mounts.missing_mounts(expectation, observed)
        if expectation.id_maps is None:
            yield from _writable_settings(observed)


def _maps(id_maps: IdMaps, observed: Observed) -> Iterator[str]:
    if "user" in observed.shared:
        yield "it runs in the host's user namespace"
    for name, found, promised in (
        ("uid_map", observed.uid_map, id_maps.uid),
        ("gid_map", observed.gid_map, id_maps.gid),
    ):
        # libvirt sorts the entries.
        if sorted(found) != sorted(_rows(promised)):
            yield f"its {name} is {_show(found)}, promised was {promised}"


def _terminals(id_maps: IdMaps, observed: Observed) -> Iterator[str]:
    expected = id_maps.shift_gid(TTY_GID)
    if observed.terminal_group != expected:
        yield (
            f"its terminals are given to the host's group "
            f"{observed.terminal_group}, not to {expected}"
        )
    for node in (*observed.terminals, *observed.nodes):
        for what, owner, id_map in (
            ("user", node.uid, id_maps.uid),
            ("group", node.gid, id_maps.gid),
        ):
            if not any(owner in entry.host_ids for entry in id_map):
                yield (
                    f"{escape(node.path)} belongs to the host's {what} {owner}"
                )


def _namespaces(expectation: Expectation, observed: Observed) -> Iterator[str]:
    allowed = {
        kind
        for kind, name in _NAMES.items()
        if name.lower() in expectation.shared
    }
    for kind in sorted(observed.shared - allowed - {"user"}):
        yield f"it is in the host's {_NAMES[kind]} namespace"
    if expectation.id_maps is not None:
        for kind in sorted(observed.foreign):
            yield (
                f"its {_NAMES[kind]} namespace belongs to another user "
                "namespace"
            )


def _capabilities(
    expectation: Expectation, observed: Observed
) -> Iterator[str]:
    for number, name in enumerate(CAPABILITIES):
        has = observed.capabilities >> number & 1
        if has and name not in expectation.capabilities:
            yield f"it may have CAP_{name.upper()}"


def _label(expectation: Expectation, observed: Observed) -> Iterator[str]:
    confinement = expectation.confinement
    if confinement is None:
        return
    if confinement.label is None:
        yield f"its domain has no label of {confinement.model}"
        return
    expected = confinement.label
    if confinement.model == "apparmor":
        # In the mode complain the kernel logs what it would refuse.
        expected = f"{expected} (enforce)"
    if observed.label != expected:
        yield (
            f"{confinement.model} has it as {escape(observed.label)!r}, "
            f"promised was {expected!r}"
        )


def _devices(expectation: Expectation, observed: Observed) -> Iterator[str]:
    expected = {(each.path, each.kind) for each in expectation.devices}
    for node in observed.nodes:
        if not (_is_harmless(node) or (node.path, node.kind) in expected):
            number = "{}:{}".format(*node.number)
            path = escape(node.path)
            yield f"it has the {node.kind} device {path}, {number}"


def _is_harmless(node: Node) -> bool:
    return node.kind == "char" and node.number in _HARMLESS


def _view(view: View, observed: Observed) -> Iterator[str]:
    """Yield what of a view is wrong on the host."""
    if view.kind is None:
        return
    mount = compare_mounts.topmost(view.source, observed.host_mounts)
    if mount is None:
        yield f"{view.source}, its {view.target}, is not mounted on the host"
        return
    if view.kind == "overlay" and mount.fs_type != "overlay":
        yield f"{view.source} is no overlay"
    if view.kind == "idmapped" and "idmapped" not in mount.options:
        yield f"{view.source} is not idmapped"
    for flag in sorted(view.flags - mount.options):
        yield f"{view.source} is not {flag}"


def _kernel_files(
    expectation: Expectation, observed: Observed
) -> Iterator[str]:
    hosts = observed.host_filesystems
    for mount in observed.mounts:
        what = _SHOWN.get(mount.fs_type)
        if what is None or mount.root in OF_NETWORKS:
            continue
        if what == "network" and what in expectation.shared:
            continue
        if expectation.id_maps is None and _is_of_libvirt(mount):
            continue
        # Of most there is one for all containers and the host.
        alone = mount.fs_type in ("proc", "sysfs")
        if (mount.fs_type, mount.device) in hosts or not alone:
            yield f"at {escape(mount.point)} it has the {what} of the host"


def _writable_settings(observed: Observed) -> Iterator[str]:
    """Give what of the kernel's settings is not as libvirt mounts it."""
    for point in ("/proc/sys", "/sys"):
        mount = compare_mounts.topmost(point, observed.mounts)
        if mount is None or "ro" not in mount.options:
            yield f"its {point} is not read-only"


def _is_of_libvirt(mount: Mount) -> bool:
    return (
        _OF_LIBVIRT.get(mount.fs_type) == mount.point and "ro" in mount.options
    )


def _rows(id_map: IdMap) -> Rows:
    return tuple((entry.guest, entry.host, entry.count) for entry in id_map)


def _show(rows: Rows) -> str:
    return ",".join(":".join(map(str, row)) for row in rows) or "empty"
