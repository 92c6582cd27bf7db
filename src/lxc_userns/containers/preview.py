# SPDX-License-Identifier: Apache-2.0
"""A look at a container before it is made: what would fail, and the steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from lxc_userns import domain
from lxc_userns.containers.restart_units import RestartUnits
from lxc_userns.exceptions import (
    ConfigError,
    ContainerExistsError,
    InstanceError,
    LibvirtError,
    LibvirtUnreachableError,
)
from lxc_userns.instances import steps
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.steps import Step
from lxc_userns.spec.policy import OFF
from lxc_userns.spec.restart_policy import RestartPolicy

if TYPE_CHECKING:
    from lxc_userns.containers.spec import ContainerSpec
    from lxc_userns.instances.record import InstanceRecord
    from lxc_userns.services import Services
    from lxc_userns.spec.request import InstanceRequest

START = Step("start", "by libvirt")
#: Kinds of network devices that libvirt attaches interfaces to.
_BRIDGES = ("bridge", "openvswitch")
VERIFY = Step("verify", "its first process, as the kernel shows it")


def list_steps(
    services: Services, spec: ContainerSpec, *, replace: bool = False
) -> Iterator[Step]:
    """Yield the steps in which a container would be made; take none.

    Of an archive or an image the strategy may still be ``auto``: it is
    chosen by what is in there. The ID maps of a lease are another's if
    that one is prepared first.

    :raises LxcUsernsError: if it can be told before that one would fail.
    """
    name = spec.name
    request = spec.to_request(find_security_model(services))
    known = services.store.load(name)
    RestartUnits().check(spec.restart)
    plan = check(services, spec, request, known, replace=replace)
    record = look_at_files(services, plan.record, spec.init[0])
    if known is not None:
        yield destruction(name)
    yield from steps.of_preparation(record)
    yield from definition(spec)
    yield START
    yield VERIFY
    if spec.restart is not RestartPolicy.NO:
        yield Step("restart", f"{spec.restart}, by systemd")


def check(
    services: Services,
    spec: ContainerSpec,
    request: InstanceRequest,
    known: InstanceRecord | None,
    *,
    replace: bool,
) -> PreparedInstance:
    """Refuse what can be seen to fail before anything changes on disk.

    :param known: what there is of the name; it may be replaced.
    :returns: what the container would be promised, as far as that is known.
    """
    planner = services.planner
    is_taken = known is not None or services.guests.find(spec.name)
    if is_taken and not (replace and known is not None):
        raise ContainerExistsError(spec.name)
    if known is not None:
        # Its lease is that of the one that is to go.
        draft = planner.plan(request)
        record = dataclasses.replace(draft, id_maps=known.id_maps)
    else:
        record = planner.preview(request, None)
    plan = PreparedInstance(record)
    _check_meant(plan)
    check_networks(services, spec.name, spec.to_xml(plan))
    return plan


def look_at_files(
    services: Services,
    record: InstanceRecord,
    program: str,
    *,
    warns: bool = True,
) -> InstanceRecord:
    """Return a record with its strategy, of what need not be mounted.

    :param program: what its root filesystem has to have.
    :param warns: as for :meth:`Filesystems.choose`.
    :raises RootfsError: if its files cannot be used.
    """
    files = services.files
    files.given.check_volumes(record)
    if record.rootfs_kind != "directory":
        return record
    with (
        files.given.opened_root(record) as root,
        files.opened(record, root.fd, {}) as tree,
    ):
        files.check_program(tree, program)
        found = files.choose(record, tree, warns=warns)
        if found.id_maps and found.strategy.traits.needs_idmapped_mounts:
            with tree.idmapped(found.id_maps):
                pass  # As far as is told by one that hangs nowhere.
        return found


def destruction(name: str) -> Step:
    """Return the step that makes room for another of a name."""
    return Step("destroy", f"the container {name} that is there")


def definition(spec: ContainerSpec) -> Iterator[Step]:
    """Yield the steps that make the domain."""
    cpus = "" if spec.cpus is None else f", {spec.cpus:g} CPUs"
    limits = f"{spec.memory_mib} MiB of memory{cpus}"
    yield Step("define", f"domain {spec.name}: {spec.init[0]}, {limits}")
    if spec.autostart:
        yield Step("autostart", "at the host's boot, by libvirt")


def find_security_model(services: Services) -> str | None:
    """Return the security module that is to confine a container, if any is.

    :raises ConfigError: if ``[lxc_userns] seclabel`` is not valid.
    :raises LibvirtError: if libvirtd cannot be reached.
    """
    if services.settings.seclabel == "none":
        return None
    models = domain.parse_models(services.guests.capabilities())
    return next(iter(models), None)


def check_networks(services: Services, name: str, xml: str) -> None:
    """Refuse bridges and libvirt's networks that are not there.

    :param xml: the domain of the container.
    """
    _check_bridges(services, name, xml)
    wanted = domain.read_network_names(xml)
    if not wanted:
        return
    try:
        found = services.guests.networks()
    except LibvirtUnreachableError:
        raise
    except LibvirtError as err:
        raise InstanceError(
            name,
            f"libvirt has no network {wanted[0]}: {err}; install its network "
            "driver (Debian package libvirt-daemon-driver-network or, before "
            "Debian 13, libvirt-daemon) and restart it, or attach to a bridge",
        ) from err
    for network in wanted:
        if not found.get(network):
            verb, state = "start", "is not active"
            if network not in found:
                verb, state = "define", "is not there"
            raise InstanceError(
                name,
                f"libvirt's network {network} {state}; {verb} it: "
                f"virsh -c lxc:/// net-{verb} "
                f"{network if verb == 'start' else 'FILE'}",
            )


def _check_bridges(services: Services, name: str, xml: str) -> None:
    # libvirt makes a pair of devices, and leaves it when it cannot attach it.
    bridges = domain.read_bridges(xml)
    found = services.find_daemon() if bridges else None
    if found is None:
        return
    with suppress(OSError):  # It is being restarted.
        for bridge in sorted({*bridges} - found.network_devices):
            raise InstanceError(
                name,
                f"there is no bridge {bridge} where libvirt looks; make it: "
                f"ip link add {bridge} type bridge",
            )
        for bridge in bridges:
            if found.kind_of_device(bridge) not in _BRIDGES:
                raise InstanceError(
                    name,
                    f"{bridge} is a network device, and no bridge; see those "
                    "that are: ip link show type bridge",
                )


def _check_meant(plan: PreparedInstance) -> None:
    """Refuse to run in the host's user namespace because none was set up."""
    if OFF in plan.mode_reasons and plan.record.needs.mode != "host":
        raise ConfigError(
            "[libvirt] uid_maps, gid_maps",
            "",
            "are empty, so that the container's root would be the host's; "
            "set both, or [lxc_userns] subid_owner",
        )
