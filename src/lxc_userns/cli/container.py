# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns container``: whole containers."""

from __future__ import annotations

import argparse
import logging
import time
from functools import cached_property
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from cliff.lister import Lister
from cliff.show import ShowOne

from lxc_userns.cli.base import ConfiguredCommand, require_root
from lxc_userns.text import escape

if TYPE_CHECKING:
    from lxc_userns.containers import Container, Containers

Shown = tuple[tuple[str, ...], tuple[Any, ...]]

_LOG = logging.getLogger(__name__)
#: States of a container that has not ended.
_ACTIVE = ("running", "unverified", "paused")
#: Seconds for which one that reboots does not run, and between two looks.
_LONGEST_REBOOT, _PAUSE = 5.0, 0.1


class ContainerCommand(ConfiguredCommand):
    """A command on containers."""

    @cached_property
    def containers(self) -> Containers:
        """The containers of this host.

        :raises PrerequisiteError: if this is not root.
        """
        require_root()
        from lxc_userns.containers import Containers

        return Containers(self.manager, self.services)

    def warn_of_autostart(self, name: str) -> None:
        """Warn if libvirt could not start a container at boot."""
        from lxc_userns.host import hook

        reason = hook.why_not_called(self.services.find_daemon())
        if reason:
            _LOG.warning("%s: would not start at boot: %s", name, reason)

    def show_started(self, name: str) -> Shown:
        """Show a container that was started, and fail if it has ended."""
        container = self.containers.show(name)
        deadline = time.monotonic() + _LONGEST_REBOOT
        # libvirt starts one that reboots once more.
        while (
            container.state not in _ACTIVE
            and container.trace.is_reboot
            and time.monotonic() <= deadline
        ):
            time.sleep(_PAUSE)
            container = self.containers.show(name)
        if container.state not in _ACTIVE:
            self.failed = True
            how = container.trace.describe() or "how is not noted yet"
            _LOG.error("%s: has ended already: %s", name, how)
        return show(container)


class OnOne(ContainerCommand):
    """A command on one container."""

    name_help = "Name of the container, or its UUID."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of all commands on one container."""
        parser.add_argument("name", metavar="NAME", help=self.name_help)

    def name(self, parsed_args: argparse.Namespace) -> str:
        """Return the name of the container, which may be given by its UUID."""
        require_root()
        return self.find_name(parsed_args.name)


def show(container: Container) -> Shown:
    """Return what is shown of a container."""
    maps = container.id_maps
    fields = {
        "name": container.name,
        "uuid": container.uuid,
        "state": container.state,
        "mode": container.mode,
        "mode_reasons": [*container.mode_reasons],
        "strategy": container.strategy,
        "reason": container.reason,
        "rootfs": container.rootfs,
        "rootfs_kind": container.rootfs_kind,
        "archive": container.archive,
        "volumes": [*map(str, container.volumes)],
        "shared": [*container.shared],
        "capabilities": [*container.capabilities],
        "devices": [each.path for each in container.devices],
        "max_processes": container.max_processes,
        "hostname": container.hostname,
        "view": container.view,
        "init_pid": container.init_pid,
        "uid_map": None if maps is None else str(maps.uid),
        "gid_map": None if maps is None else str(maps.gid),
        "interfaces": [
            {
                "name": each.name and escape(each.name),
                "mac": each.mac,
                "addresses": [*each.addresses],
                "network": each.network,
            }
            for each in container.interfaces
        ],
        "restart": container.restart.value,
        "ended": container.trace.describe(),
        "oom_kills": container.trace.oom_kills,
        "console": [*container.trace.console],
    }
    return tuple(fields), tuple(fields.values())


class List(ContainerCommand, Lister):
    """List the containers, as they are now."""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """List them."""
        columns = ("name", "state", "mode", "init_pid", "rootfs")
        return (*columns, "addresses"), [
            (*(getattr(each, column) for column in columns), _addresses(each))
            for each in self.containers.list()
        ]


def _addresses(container: Container) -> list[str]:
    """Return its IP addresses that others than its neighbours can use."""
    return [
        address
        for each in container.interfaces
        for address in each.addresses
        if not ip_interface(address).is_link_local
    ]


class Show(OnOne, ShowOne):
    """Show a container, as it is now."""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Show it."""
        return show(self.containers.show(self.name(parsed_args)))


class Autostart(OnOne):
    """Let libvirt start a container at the host's boot, or not.

    It needs the hook, which prepares and verifies what libvirt starts; see
    host hook install.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what is wanted."""
        super().add_arguments(parser)
        parser.add_argument(
            "switch",
            choices=("on", "off"),
            help="Whether it is started at boot.",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Switch it on or off."""
        name, is_on = self.name(parsed_args), parsed_args.switch == "on"
        self.containers.set_autostart(name, is_on)
        if is_on:
            self.warn_of_autostart(name)
