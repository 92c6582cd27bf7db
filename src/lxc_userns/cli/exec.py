# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns container exec``: commands in containers."""

from __future__ import annotations

import argparse
import os

from lxc_userns.cli.base import (
    ConfiguredCommand,
    require_root,
    split_variable,
)
from lxc_userns.cli.exit_codes import OWN_FAILURE
from lxc_userns.cli.main import LxcUserns
from lxc_userns.exceptions import ConfigError


class Exec(ConfiguredCommand):
    """Run a command in a running container, whoever made it.

    It runs in all the container's namespaces and control groups, with the
    capabilities, the security label and the limits of the container's first
    process, and with nothing of the host's: no environment, descriptor or
    terminal. Options stand before the command, which may have its own.

    The exit code is that of the command, or 128 and the number of the signal
    that ended it; 126 if it cannot be executed, 127 if there is no such
    program, and 125 if anything else kept it from being run.
    """

    app: LxcUserns

    @staticmethod
    def error_code(error: Exception) -> int:
        """Return the exit code for an error, none of a command's usual."""
        return int(getattr(error, "code", OWN_FAILURE))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command and what it is to have."""
        parser.add_argument(
            "name", metavar="NAME", help="Name of the container, or its UUID."
        )
        parser.add_argument(
            "--user",
            "-u",
            metavar="USER[:GROUP]",
            help="User of the container, by a name in its /etc/passwd or by a "
            "number, and a group (default: its root).",
        )
        parser.add_argument(
            "--workdir",
            "-w",
            metavar="DIR",
            help="Working directory (default: the user's home, or /).",
        )
        parser.add_argument(
            "--env",
            "-e",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="Environment variable of the command; can be repeated.",
        )
        parser.add_argument(
            "--tty",
            "-t",
            action="store_true",
            help="Give it a terminal, made in the container.",
        )
        parser.add_argument(
            "command",
            nargs="*",
            default=[],
            metavar="CMD",
            help="Program and its arguments (default: the user's login "
            "shell).",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Run it."""
        from lxc_userns.attach import relay, session

        require_root()
        spec = session.CommandSpec(
            command=(
                *parsed_args.command,
                *self.app.command_in_container,
            ),
            user=parsed_args.user,
            workdir=parsed_args.workdir,
            environment=tuple(map(split_variable, parsed_args.env)),
            terminal=relay.terminal_size() if parsed_args.tty else None,
            term=os.environ.get("TERM", "linux"),
        )
        _check(spec.workdir, *spec.command)
        name = self.find_name(parsed_args.name)
        with session.start(self.guests, name, spec) as started:
            passed = relay.Relay(started, has_terminal=parsed_args.tty)
            return passed.run()


def _check(workdir: str | None, *command: str) -> None:
    if workdir is not None and not workdir.startswith("/"):
        raise ConfigError("--workdir", workdir, "expected an absolute path")
    if command and not command[0]:
        raise ConfigError("CMD", "", "is empty")
