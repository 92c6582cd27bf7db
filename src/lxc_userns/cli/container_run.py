# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns container run``: a container from its options."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from lxc_userns.cli.base import (
    number_from,
    progress_bar,
    require_root,
    split_variable,
    unpack_bar,
)
from lxc_userns.cli.container import OnOne
from lxc_userns.cli.several import ShowsOneOrList
from lxc_userns.exceptions import ConfigError
from lxc_userns.spec.hostname import check_hostname
from lxc_userns.spec.requirements import MOST_PROCESSES, Requirements
from lxc_userns.spec.restart_policy import RestartPolicy
from lxc_userns.spec.size import parse_memory
from lxc_userns.spec.strategy import CHOICES
from lxc_userns.spec.volume import Volume

if TYPE_CHECKING:
    from lxc_userns.domain import Interface


class Run(OnOne, ShowsOneOrList):
    """Make a container and start it.

    It sees its root filesystem with the configured ID maps: by an idmapped
    mount, an overlay on one, or shifted on disk. What runs is compared with
    them, and destroyed if it differs.
    """

    name_help = "Name of the container."
    table_columns = ("step", "what")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what a container is made of."""
        super().add_arguments(parser)
        parser.add_argument(
            "--rootfs",
            required=True,
            metavar="DIR|IMAGE|ARCHIVE",
            help="Its root filesystem: a directory; a raw disk image with "
            "one filesystem; a tar archive, plain or compressed by gzip, xz "
            "or zstd, which is unpacked for this container alone.",
        )
        parser.add_argument(
            "--replace",
            action="store_true",
            help="Destroy a container of this name before, if there is one.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="List the steps that this would take, and change nothing; "
            "they are told as they are taken with -vv before the command.",
        )
        parser.add_argument(
            "--autostart",
            action="store_true",
            help="Have libvirt start it at the host's boot, which needs its "
            "hook; see host hook install.",
        )
        parser.add_argument(
            "--restart",
            choices=[each.value for each in RestartPolicy],
            default=RestartPolicy.NO.value,
            help="Have systemd start it at boot, and again when it has failed "
            "or whenever it has ended, unless somebody has stopped it. That "
            "needs the units of this package (default: %(default)s).",
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

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], Any]:
        """Run it, or list the steps."""
        from lxc_userns.containers import ContainerSpec
        from lxc_userns.containers.preview import list_steps

        require_root()
        spec = ContainerSpec(
            parsed_args.name,
            parsed_args.rootfs,
            _split_init(parsed_args.init),
            memory_mib=parsed_args.memory,
            cpus=_cpus(parsed_args),
            env=dict(map(split_variable, parsed_args.env)),
            interfaces=_interfaces(parsed_args.network),
            strategy=parsed_args.strategy,
            volumes=tuple(map(Volume.parse, parsed_args.volume)),
            needs=_needs(parsed_args),
            max_processes=parsed_args.pids_limit,
            autostart=parsed_args.autostart,
            hostname=parsed_args.hostname,
            restart=RestartPolicy(parsed_args.restart),
        )
        replace = parsed_args.replace
        if spec.autostart:
            self.warn_of_autostart(spec.name)
        if parsed_args.dry_run:
            steps = list_steps(self.services, spec, replace=replace)
            return self.table_columns, [*map(astuple, steps)]
        with _bar(spec.rootfs) as progress:
            self.containers.run(spec, progress, replace=parsed_args.replace)
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
        "host); ro, suid, dev, owned (directories above it may be a user's), "
        "image (it is a disk image, whose filesystem is mounted).",
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
        type=number_from(0, MOST_PROCESSES),
        metavar="N",
        help="How many processes and threads it may have; 0 for no limit "
        "(default: [lxc_userns] max_processes).",
    )


def _hostname(text: str) -> str:
    try:
        return check_hostname(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text}: {err}") from None


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
        "--hostname",
        type=_hostname,
        metavar="NAME",
        help="Its host name (default: the letters, digits and hyphens of its "
        "name). Of an archive and with the strategy overlay it is in its "
        "/etc/hostname too; a directory or image is not changed.",
    )
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
        "an interface each, with an address if its network gives it none: "
        "bridge:br0,address=192.0.2.10/24,gateway=192.0.2.1; none for a "
        "loopback device alone, which is the default; host for the host's "
        "own network, only in mode host.",
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


def _split_init(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as err:
        raise ConfigError("--init", text, str(err)) from err
    if not words:
        raise ConfigError("--init", text, "is empty")
    return words


def _interfaces(texts: list[str]) -> tuple[Interface, ...]:
    from lxc_userns.domain import Interface

    if texts in (["none"], ["host"]):
        return ()
    interfaces = []
    for text in texts:
        if not re.match("(network|bridge):[^,]", text):
            raise ConfigError(
                "--network",
                text,
                "expected network:NAME, bridge:NAME, or none or host alone",
            )
        interfaces.append(Interface.parse(text))
    return tuple(interfaces)
