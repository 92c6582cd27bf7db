# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns container``: start, stop, verify and destroy containers."""

from __future__ import annotations

import argparse
from contextlib import suppress

from cliff.show import ShowOne

from lxc_userns.cli.base import progress_bar
from lxc_userns.cli.container import OnOne, Shown
from lxc_userns.cli.exit_codes import OWN_FAILURE
from lxc_userns.cli.several import OnSeveral, ShowsSeveral
from lxc_userns.exceptions import AlreadyRunningError, NoSuchContainerError

_DEFAULT_TIMEOUT = 10.0
#: State before a verification, by whether it had been verified; None: no one
#: keeps record of it.
_PREVIOUS = {True: "running", False: "unverified", None: None}


class Verify(ShowsSeveral):
    """Compare running containers with what was promised.

    One that differs is destroyed, and the exit code is 1. One that cannot be
    looked at runs on, and the exit code is 4; but if it was never verified
    since it started it is destroyed as well. The state before was
    "unverified" if it had not been verified since it last started.
    """

    all_help = "All containers of this package that run."
    active = True
    table_columns = ("name", "mode", "init_pid", "previous_state")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add ``--report-only``."""
        super().add_arguments(parser)
        parser.add_argument(
            "--report-only",
            action="store_true",
            help="Change nothing: neither destroy one that differs, nor set "
            "its limits again, nor record that it was verified. The exit "
            "code is the same.",
        )

    def act(self, name: str, parsed_args: argparse.Namespace) -> Shown:
        """Compare it."""
        found = self.containers.verify(
            name, report_only=parsed_args.report_only
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


class Start(ShowsSeveral):
    """Start containers that were stopped, with the ID maps that they had.

    Root filesystem and volumes of each are the files that it was given first,
    or it does not start. One that runs unverified, because its start was cut
    short or because it has rebooted itself, is verified, or destroyed if it
    differs.
    """

    all_help = "All containers of this package that do not run."
    active = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add ``--accept-replaced`` and ``--ignore``."""
        super().add_arguments(parser)
        parser.add_argument(
            "--accept-replaced",
            action="store_true",
            help="Take what is at the paths of its root filesystem and "
            "volumes now, and hold on to that from now on.",
        )
        parser.add_argument(
            "--ignore",
            action="store_true",
            help="One that runs already is no failure.",
        )

    def act(self, name: str, parsed_args: argparse.Namespace) -> Shown:
        """Start it."""
        replaced = parsed_args.accept_replaced
        try:
            with progress_bar("shift") as progress:
                self.containers.start(name, progress, accept_replaced=replaced)
        except AlreadyRunningError:
            if not parsed_args.ignore:
                raise
        return self.show_started(name)


class Restart(ShowsSeveral):
    """Stop containers and start them again; those that do not run as well.

    They are asked to stop, and killed if they have not in time.
    """

    all_help = "All containers of this package that run."
    active = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the time."""
        super().add_arguments(parser)
        _add_timeout(parser)

    def act(self, name: str, parsed_args: argparse.Namespace) -> Shown:
        """Restart it."""
        with progress_bar("shift") as progress:
            self.containers.restart(
                name, progress, timeout=parsed_args.timeout
            )
        return self.show_started(name)


class Wait(OnOne, ShowOne):
    """Wait until a container has ended, and end as it did.

    One that reboots has not. The exit code is that of its first process, or
    128 and the number of the signal that ended it; 0 if it has powered itself
    off, 143 if somebody on the host has stopped or destroyed it, and 125 if
    that is not known, or it cannot be waited for. Of one that does not run it
    is that of its last run.
    """

    _exit_code = 0

    @staticmethod
    def error_code(_error: Exception) -> int:
        """Return the exit code for an error."""
        return OWN_FAILURE

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run it, and return the container's exit code."""
        super().run(parsed_args)
        return self._exit_code

    def take_action(self, parsed_args: argparse.Namespace) -> Shown:
        """Wait."""
        name = self.name(parsed_args)
        found = self.containers.wait(name)
        self._exit_code = found.exit_code
        return ("name", "ended"), (name, found.describe())


class Stop(OnSeveral):
    """Stop containers; nothing happens to those that do not run.

    They are asked to, and killed if they have not stopped in time.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the time, ``--ignore`` and ``--waited-by``."""
        super().add_arguments(parser)
        _add_timeout(parser)
        _add_ignore(parser)
        parser.add_argument(
            "--waited-by",
            metavar="PID",
            help="Do nothing if this is empty: for a unit of systemd, whose "
            "MAINPID is the process that waits for the container.",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Stop them."""
        if parsed_args.waited_by != "":
            super().take_action(parsed_args)

    def act(self, name: str, parsed_args: argparse.Namespace) -> None:
        """Stop it."""
        with suppress(*_ignored(parsed_args)):
            self.containers.stop(name, parsed_args.timeout)


class Destroy(OnSeveral):
    """Kill containers and forget them, whatever state they are in.

    A directory or image that was given as a root filesystem is left alone.
    If the strategy was chown it stays shifted; "rootfs unshift" gives it its
    own IDs back. What was unpacked from an archive for a container, and what
    it changed on an overlay, is removed.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add ``--ignore``."""
        super().add_arguments(parser)
        _add_ignore(parser)

    def act(self, name: str, parsed_args: argparse.Namespace) -> None:
        """Destroy it."""
        with suppress(*_ignored(parsed_args)):
            self.containers.destroy(name)


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=_DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="How long each has to stop; 0 kills it at once (default: "
        "%(default)s).",
    )


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if seconds >= 0:  # "nan" is not.
            return seconds
    raise argparse.ArgumentTypeError(f"{text}: expected 0 or more seconds")


def _add_ignore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ignore",
        action="store_true",
        help="One that is not there is no failure.",
    )


def _ignored(parsed_args: argparse.Namespace) -> tuple[type[Exception], ...]:
    return (NoSuchContainerError,) if parsed_args.ignore else ()
