# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns container``: whole containers."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cliff.lister import Lister
from cliff.show import ShowOne

from lxc_userns.cli.base import (
    ConfiguredCommand,
    progress_bar,
    require_root,
    unpack_bar,
)
from lxc_userns.exceptions import ConfigError
from lxc_userns.spec.requirements import Requirements
from lxc_userns.spec.size import parse_memory
from lxc_userns.spec.strategy import CHOICES
from lxc_userns.spec.volume import Volume

if TYPE_CHECKING:
    from lxc_userns.containers import Container, Containers
    from lxc_userns.domain import Interface

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

        return Containers(self.manager)


class _OnOne(_ContainerCommand):
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


class _ShowsOne(_OnOne, ShowOne):
    def show(self, name: str) -> Shown:
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


class Run(_ShowsOne):
    """Make a container and start it.

    It sees its root filesystem with the configured ID maps: by an idmapped
    mount, an overlay on one, or shifted on disk. What runs is compared with
    them, and destroyed if it differs.
    """

    name_help = "Name of the container."

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add what a container is made of."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--rootfs",
            required=True,
            metavar="DIR|IMAGE|ARCHIVE",
            help="Its root filesystem: a directory; a raw disk image with "
            "one filesystem; a tar archive, plain or compressed by gzip, xz "
            "or zstd, which is unpacked for this container alone.",
        )
        _add_files(parser)
        parser.add_argument(
            "--init",
            default="/sbin/init",
            metavar="CMD",
            help="Program to start in it, with arguments as a shell would "
            "split them (default: %(default)s).",
        )
        _add_limits(parser)
        _add_surroundings(parser)
        _add_needs(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Run it."""
        from lxc_userns.containers import ContainerSpec

        spec = ContainerSpec(
            parsed_args.name,
            parsed_args.rootfs,
            _split_init(parsed_args.init),
            parsed_args.memory,
            _cpus(parsed_args),
            dict(map(_split_variable, parsed_args.env)),
            _interfaces(parsed_args.network),
            parsed_args.strategy,
            tuple(map(Volume.parse, parsed_args.volume)),
            _needs(parsed_args),
            max_processes=parsed_args.pids_limit,
        )
        with _bar(spec.rootfs) as progress:
            self.containers.run(spec, progress)
        return self.show_started(spec.name)


def _bar(
    path: str,
) -> AbstractContextManager[Callable[[int], None] | None]:
    from lxc_userns.rootfs.archive.unpack import is_archive

    return unpack_bar(path) if is_archive(path) else progress_bar("shift")


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strategy",
        choices=[each.value for each in CHOICES],
        help="How its files come to belong to the mapped IDs (default: "
        "[lxc_userns] rootfs_strategy).",
    )
    parser.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="SOURCE:TARGET[:OPTION,...]",
        help="A directory, file or socket of the host in the container; can "
        "be repeated. Options: idmap (default; it sees the owners on disk as "
        "its own IDs), none (it sees them as nobody's), chown (they are "
        "shifted on disk), host (its root is the host's there; only in mode "
        "host); ro, suid, dev, owned (directories above it may be a user's).",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory",
        type=_memory,
        default=512,
        metavar="SIZE",
        help="Memory, in MiB or with a unit, as 512M, 2GiB (default: "
        "%(default)s). M and MiB are powers of 1024, MB of 1000.",
    )
    parser.add_argument(
        "--cpus",
        type=float,
        metavar="N",
        help="CPU time that it may use, in CPUs: 0.5 for half of one, 2 for "
        "two (default: as much as there is).",
    )
    parser.add_argument("--vcpus", help=argparse.SUPPRESS)
    parser.add_argument(
        "--pids-limit",
        type=int,
        metavar="N",
        help="How many processes and threads it may have; 0 for no limit "
        "(default: [lxc_userns] max_processes).",
    )


def _memory(text: str) -> int:
    try:
        return parse_memory(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from None


def _cpus(parsed_args: argparse.Namespace) -> float | None:
    if parsed_args.vcpus is not None:
        raise ConfigError(
            "--vcpus",
            parsed_args.vcpus,
            "limits nothing, for a container has no virtual CPUs; limit its "
            "CPU time with --cpus N",
        )
    cpus: float | None = parsed_args.cpus
    return cpus


def _add_surroundings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="Environment variable of the program; can be repeated.",
    )
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NETWORK",
        help="network:NAME of libvirt or bridge:NAME of the host, for "
        "an interface each; none for a loopback device alone, which is "
        "the default; host for the host's own network, only in mode host.",
    )


def _add_needs(parser: argparse.ArgumentParser) -> None:
    """Add what the policy decides about."""
    parser.add_argument(
        "--mode",
        choices=("private", "host"),
        help="Run it in a user namespace of its own, or not at all; or in "
        "the host's, where its root is the host's root, if [lxc_userns] "
        "userns_policy allows that (default: private, unless something it "
        "needs is not to be had there and the policy allows host).",
    )
    for kind, what in (
        ("ipc", "System V IPC and message queues"),
        ("uts", "host name"),
    ):
        parser.add_argument(
            f"--{kind}",
            choices=("private", "host"),
            default="private",
            help=f"Whether it shares the host's {what}; only in mode host.",
        )
    parser.add_argument(
        "--capability",
        action="append",
        default=[],
        metavar="NAME",
        help="A capability that it needs, as sys_time; can be repeated. Some "
        "count only in mode host.",
    )
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="PATH",
        help="A device of the host that its root may use, as /dev/fuse; can "
        "be repeated.",
    )


def _needs(parsed_args: argparse.Namespace) -> Requirements:
    shared = {
        "network": parsed_args.network == ["host"],
        "ipc": parsed_args.ipc == "host",
        "uts": parsed_args.uts == "host",
    }
    return Requirements(
        parsed_args.mode,
        tuple(kind for kind, is_shared in shared.items() if is_shared),
        tuple(map(_capability, parsed_args.capability)),
        tuple(parsed_args.device),
    )


def _capability(text: str) -> str:
    return text.lower().removeprefix("cap_")


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


class Show(_ShowsOne):
    """Show a container, as it is now."""

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Show it."""
        return self.show(self.name(parsed_args))


class Verify(_OnOne, ShowOne):
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


class Start(_ShowsOne):
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


class Stop(_OnOne):
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


class Destroy(_OnOne):
    """Kill a container and forget it, whatever state it is in.

    A directory or image that was given as its root filesystem is left alone.
    If the strategy was chown it stays shifted; "rootfs unshift" gives it its
    own IDs back. What was unpacked from an archive for it, and what it changed
    on an overlay, is removed.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Destroy it."""
        self.containers.destroy(self.name(parsed_args))


def _split_init(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as err:
        raise ConfigError("--init", text, str(err)) from err
    if not words:
        raise ConfigError("--init", text, "is empty")
    return words


def _split_variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError("--env", text, "expected NAME=VALUE")
    return name, value


def _interfaces(texts: list[str]) -> tuple[Interface, ...]:
    from lxc_userns.domain import Interface

    if texts in (["none"], ["host"]):
        return ()
    makers = {"network": Interface.network, "bridge": Interface.bridge}
    interfaces = []
    for text in texts:
        kind, _, name = text.partition(":")
        if kind not in makers or not name:
            raise ConfigError(
                "--network",
                text,
                "expected network:NAME, bridge:NAME, or none or host alone",
            )
        interfaces.append(makers[kind](name))
    return tuple(interfaces)
