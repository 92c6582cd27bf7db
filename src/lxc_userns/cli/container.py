# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns container``: whole containers."""

from __future__ import annotations

import argparse
import logging
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cliff.lister import Lister
from cliff.show import ShowOne

from lxc_userns.cli.base import (
    ConfiguredCommand,
    progress_bar,
    require_root,
)

if TYPE_CHECKING:
    from lxc_userns.containers import Container, Containers

Shown = tuple[tuple[str, ...], tuple[Any, ...]]

_LOG = logging.getLogger(__name__)
#: States of a container that has not ended.
_ACTIVE = ("running", "unverified", "paused")
_DEFAULT_TIMEOUT = 10.0
_UUID = re.compile(r"[\da-f]{8}-(?:[\da-f]{4}-){3}[\da-f]{12}", re.IGNORECASE)
#: State before a verification, by whether it had been verified; None: nobody
#: keeps record of it.
_PREVIOUS = {True: "running", False: "unverified", None: None}


class _ContainerCommand(ConfiguredCommand):
    @cached_property
    def containers(self) -> Containers:
        """The containers of this host.

        :raises PrerequisiteError: if this is not root.
        """
        require_root()
        from lxc_userns.containers import Containers

        return Containers(self.manager, self.services)


class OnOne(_ContainerCommand):
    """A command on one container."""

    name_help = "Name of the container, or its UUID."

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Arguments of all commands on one container."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help=self.name_help)
        return parser

    def name(self, parsed_args: argparse.Namespace) -> str:
        """The name of the container, which may be given by its UUID."""
        require_root()
        given: str = parsed_args.name
        if _UUID.fullmatch(given):
            return self.services.instances.names_of(given)[0]
        return given


class ShowsOne(OnOne, ShowOne):
    """A command that shows one container when it is done."""

    def show(self, name: str) -> Shown:
        """Show a container."""
        return _show(self.containers.show(name))

    def show_started(self, name: str) -> Shown:
        """Show a container that was started, and fail if it has ended."""
        container = self.containers.show(name)
        if container.state not in _ACTIVE:
            self.failed = True
            how = container.trace.describe() or "how is not noted yet"
            _LOG.error("%s: has ended already: %s", name, how)
        return _show(container)


def _show(container: Container) -> Shown:
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
        "view": container.view,
        "init_pid": container.init_pid,
        "uid_map": None if maps is None else str(maps.uid),
        "gid_map": None if maps is None else str(maps.gid),
        "ended": container.trace.describe(),
        "oom_kills": container.trace.oom_kills,
        "console": [*container.trace.console],
    }
    return tuple(fields), tuple(fields.values())


class List(_ContainerCommand, Lister):
    """List the containers, as they are now."""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """List them."""
        columns = ("name", "state", "mode", "init_pid", "rootfs")
        found = self.containers.list()
        return columns, [
            tuple(getattr(each, column) for column in columns)
            for each in found
        ]


class Show(ShowsOne):
    """Show a container, as it is now."""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Show it."""
        return self.show(self.name(parsed_args))


class Verify(OnOne, ShowOne):
    """Compare a running container with what was promised.

    One that differs is destroyed, and the exit code is 1. One that cannot be
    looked at runs on, and the exit code is 4; but if it was never verified
    since it started it is destroyed as well. The state before was
    "unverified" if it had not been verified since it last started.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add ``--report-only``."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--report-only",
            action="store_true",
            help="Change nothing: neither destroy one that differs, nor set "
            "its limits again, nor record that it was verified. The exit "
            "code is the same.",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Compare it."""
        require_root()
        found = self.containers.verify(
            self.name(parsed_args), report_only=parsed_args.report_only
        )
        fields = {
            "name": found.name,
            "mode": found.mode,
            "init_pid": found.pid,
            "uid_map": found.uid_map,
            "gid_map": found.gid_map,
            "previous_state": _PREVIOUS[found.was_verified],
        }
        return tuple(fields), tuple(fields.values())


class Start(ShowsOne):
    """Start a container that was stopped, with the ID maps that it had.

    Its root filesystem and volumes are the files that it was given first, or
    it does not start. One that runs unverified, because its start was cut
    short or because it has rebooted itself, is verified, or destroyed if it
    differs.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add ``--accept-replaced``."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--accept-replaced",
            action="store_true",
            help="Take what is at the paths of its root filesystem and "
            "volumes now, and hold on to that from now on.",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Start it."""
        name = self.name(parsed_args)
        with progress_bar("shift") as progress:
            self.containers.start(
                name, progress, accept_replaced=parsed_args.accept_replaced
            )
        return self.show_started(name)


class Stop(OnOne):
    """Stop a container.

    It is asked to, and killed if it has not stopped in time.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the time."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--timeout",
            type=float,
            default=_DEFAULT_TIMEOUT,
            metavar="SECONDS",
            help="How long it has; 0 kills it at once (default: %(default)s).",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Stop it."""
        self.containers.stop(self.name(parsed_args), parsed_args.timeout)


class Destroy(OnOne):
    """Kill a container and forget it, whatever state it is in.

    A directory or image that was given as its root filesystem is left alone.
    If the strategy was chown it stays shifted; "rootfs unshift" gives it its
    own IDs back. What was unpacked from an archive for it, and what it changed
    on an overlay, is removed.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Destroy it."""
        self.containers.destroy(self.name(parsed_args))


class Autostart(OnOne):
    """Let libvirt start a container at the host's boot, or not.

    It needs the hook, which prepares and verifies what libvirt starts; see
    host hook install.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add what is wanted."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "switch",
            choices=("on", "off"),
            help="Whether it is started at boot.",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Switch it on or off."""
        self.containers.set_autostart(
            self.name(parsed_args), parsed_args.switch == "on"
        )
