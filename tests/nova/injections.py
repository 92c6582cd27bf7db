# SPDX-License-Identifier: Apache-2.0
"""Changes to a running Nova, from its inside.

:meth:`tests.nova.harness.Nova.run` calls these with the service's requests.
"""

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import libvirt
from nova import context, exception, objects
from nova.privsep import idmapshift
from nova.virt.libvirt import utils

from lxc_userns import privileged
from lxc_userns.linux import cgroups
from lxc_userns.nova import quiesce
from tests.nova.harness import wait_until


def shift(_: Any, path: str, entry: list[int]) -> None:
    """Shift a tree as Nova does, with both maps of one entry."""
    idmapshift.shift(path, [tuple(entry)], [tuple(entry)])


def shift_by_tuples(_: Any) -> None:
    """Let Nova's shift be called as it was meant to be."""

    def shift_for(path: str, id_maps: list[Any]) -> None:
        both: dict[str, list[tuple[int, int, int]]] = {"uid": [], "gid": []}
        for each in id_maps:
            entry = (each.start, each.target, each.count)
            both[each.root_name].append(entry)
        idmapshift.shift(path, both["uid"], both["gid"])

    utils.chown_for_id_maps = shift_for


def refused_without_freezer(call: Callable[[], object]) -> str:
    """Call as on a host with version 2 of control groups alone: the error."""
    had = cgroups.can_freeze
    cgroups.can_freeze = lambda: False
    try:
        call()
    except exception.NovaException as err:
        return str(err)
    finally:
        cgroups.can_freeze = had
    return ""


def pause_without_freezer(requests: Any, name: str) -> str:
    """Pause an instance where that is refused: the error."""
    driver = requests.compute.manager.driver
    instance = SimpleNamespace(name=name)
    return refused_without_freezer(lambda: driver.pause(instance))


def snapshot_without_freezer(requests: Any, uuid: str) -> str:
    """Begin a snapshot where that is refused: the error."""
    host = requests.compute.manager.driver._host
    instance = objects.Instance.get_by_uuid(context.get_admin_context(), uuid)
    return refused_without_freezer(lambda: quiesce.begin(host, instance))


def recover_without_resume(requests: Any) -> None:
    """Begin as a service does, where libvirt resumes nothing."""
    host = requests.compute.manager.driver._host

    def refuse() -> None:
        raise libvirt.libvirtError("refused")

    def unresumable(guest: Any) -> SimpleNamespace:
        return SimpleNamespace(
            uuid=guest.uuid,
            name=guest.name,
            get_power_state=lambda _: guest.get_power_state(host),
            resume=refuse,
        )

    quiesce.recover(
        SimpleNamespace(
            list_guests=lambda: [unresumable(x) for x in host.list_guests()]
        )
    )


def prefer_programs(_: Any, directory: str) -> None:
    """Run programs of a directory in place of the host's."""
    os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"


def end_when_verified(requests: Any) -> None:
    """Let containers end as soon as they are verified."""
    verify = privileged.verify
    connection = requests.compute.manager.driver._host.get_connection()

    def verify_and_end(prepared: Any, *, started: bool) -> Any:
        found = verify(prepared, started=started)
        os.kill(found.pid, signal.SIGKILL)
        domain = connection.lookupByUUIDString(prepared.uuid)
        wait_until(lambda: not domain.isActive())
        return found

    privileged.verify = verify_and_end  # type: ignore[assignment]


def update_resources(requests: Any) -> None:
    """Tell placement what there is, as happens every minute."""
    manager = requests.compute.manager
    manager.update_available_resource(context.get_admin_context())


def add_extra_spec(_: Any, flavor: str, name: str, value: str) -> None:
    """Give a flavor one that the API would not."""
    found = objects.Flavor.get_by_flavor_id(
        context.get_admin_context(), flavor
    )
    found.extra_specs = {**found.extra_specs, name: value}
    found.save()


def make_tap_port(requests: Any) -> str:
    """Make a port whose device Nova would make: its ID."""
    neutron = requests.nova.neutron
    port = neutron.port_1
    neutron._ports[port["id"]] |= {
        "binding:vif_type": "tap",
        "binding:vif_details": {},
    }
    return str(port["id"])
