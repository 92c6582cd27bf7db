# SPDX-License-Identifier: Apache-2.0
"""Base classes and helpers of the commands."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from cliff.command import Command
from oslo_config import cfg

from lxc_userns.cli.main import usage_error
from lxc_userns.commands import command
from lxc_userns.config.load import load_conf
from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import ConfigError, IdMapError, PrerequisiteError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.text import escape, shorten

#: Formats that have text as it is.
_RAW = ("csv", "shell", "value")
#: Unit of a progress bar.
BYTES = "B"

if TYPE_CHECKING:
    from lxc_userns.libvirtd.client import Guests
    from lxc_userns.manager import UserNamespaceManager
    from lxc_userns.services import Services

_UUID = re.compile(r"[\da-f]{8}-(?:[\da-f]{4}-){3}[\da-f]{12}", re.IGNORECASE)


class ConfiguredCommand(Command):
    """A command that reads the configuration.

    Its exit code is 0, or 1 once :attr:`failed` is set.
    """

    failed = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser; it tells a wrong option in one line."""
        parser = super().get_parser(prog_name)
        # cliff makes it, of a class of its own.
        parser.error = partial(  # type: ignore[method-assign]
            usage_error, parser
        )
        self.add_arguments(parser)
        return parser

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what the command is called with: nothing, unless it says so."""

    def get_epilog(self) -> str:
        """Return no text, as no plugin brings commands.

        To find out whether one does, cliff reads the metadata of everything
        that is installed, which takes longer than most commands.
        """
        return ""

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Any],
    ) -> int:
        """Print what a command of lists or values has found.

        In a table for people, what is not there is blank.
        """
        data = self.for_reader(parsed_args, data)
        # The class beside this one has it.
        output = super().produce_output  # type: ignore[misc]
        return int(output(parsed_args, column_names, data))

    def for_reader(self, parsed_args: argparse.Namespace, data: Any) -> Any:
        """Return a row, or rows, as who reads the output is to see them.

        Programs get names and paths as they are.
        """
        if parsed_args.formatter == "table":
            return for_table(data)
        is_raw = parsed_args.formatter in _RAW
        return escaped(data) if is_raw and self.app.stdout.isatty() else data

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run it."""
        return super().run(parsed_args) or int(self.failed)

    @cached_property
    def conf(self) -> cfg.ConfigOpts:
        """The configuration; its values may still be wrong."""
        return load_conf(self.app.options.config_file)

    @cached_property
    def settings(self) -> Settings:
        """Values of our options, read once."""
        return Settings.from_conf(self.conf)

    @cached_property
    def manager(self) -> UserNamespaceManager:
        """The manager of this configuration."""
        from lxc_userns.manager import UserNamespaceManager

        return UserNamespaceManager(self.conf, self.guests)

    @cached_property
    def guests(self) -> Guests:
        """The domains of this host."""
        from lxc_userns.libvirtd.client import Guests

        return Guests(is_silent=True)

    @cached_property
    def services(self) -> Services:
        """The services of this host, for the whole command."""
        from lxc_userns.services import Services

        return Services(self.settings, self.guests)

    def find_name(self, given: str) -> str:
        """Return the name of a container that may be given by its UUID."""
        if _UUID.fullmatch(given):
            return self.services.instances.names_of(given)[0]
        return given

    def id_maps(self, parsed_args: argparse.Namespace) -> IdMaps:
        """Return the ID maps given, or else those of the configuration.

        :raises ConfigError: if there are none in either, or bad ones, or
            others hold their host IDs.
        """
        given = given_id_maps(parsed_args)
        if given is not None:
            self.settings.check_held(given, ("--uid-map", "--gid-map"))
            return given
        shared = self.settings.id_maps
        if shared is None and self.settings.has_pool:
            raise ConfigError(
                "--uid-map, --gid-map",
                "",
                "are needed: each instance has a lease of its own; see "
                f"{command('lease', 'list')}, or lease acquire",
            )
        configured = self.settings.load_id_maps()
        if configured is None:
            raise ConfigError(
                "--uid-map, --gid-map",
                "",
                "are needed: [libvirt] uid_maps and gid_maps are empty",
            )
        return configured


def for_table(value: Any) -> Any:
    """Return a row, or rows, without None, and lists as text; escaped."""
    if isinstance(value, tuple):
        return escaped(tuple(map(_cell, value)))
    return [for_table(row) for row in value]


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value


def escaped(value: Any) -> Any:
    """Return a row, or rows, with all escaped that a terminal acts upon.

    Domains of others can have any name.
    """
    if isinstance(value, tuple):
        return tuple(map(_escape, value))
    return [escaped(row) for row in value]


def _escape(value: object) -> object:
    if isinstance(value, list):
        return [*map(_escape, value)]
    return escape(value) if isinstance(value, str) else value


def split_variable(text: str) -> tuple[str, str]:
    """Return name and value of an environment variable."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError("--env", text, "expected NAME=VALUE")
    return name, value


def require_root() -> None:
    """Refuse to look for what only root can see.

    :raises PrerequisiteError: if this is not root.
    """
    user = os.geteuid()
    if user != 0:
        # By this the exit code is told from that of what was found.
        raise PrerequisiteError(
            f"this is user {user}, and only root can see the containers and "
            "leases of this host; run this as root"
        ) from PermissionError()


def number_from(least: int, most: int) -> Callable[[str], int]:
    """Return a type of argument: a whole number in a range."""

    def parse(text: str) -> int:
        # Also of more digits than Python reads.
        with suppress(ValueError):
            number = int(text)
            if least <= number <= most:
                return number
        raise argparse.ArgumentTypeError(
            f"{shorten(text)}: expected {least}..{most}"
        )

    return parse


def add_map_arguments(
    parser: argparse.ArgumentParser, default: str = "the configuration's"
) -> None:
    """Add ``--uid-map`` and ``--gid-map``.

    :param default: the ID maps that count without them, for the help.
    """
    for kind in ("user", "group"):
        parser.add_argument(
            f"--{kind[0]}id-map",
            metavar="MAP",
            help=f"ID map for {kind} IDs, guest:host:count,... (default: "
            f"{default}); both maps are given or neither.",
        )


def given_id_maps(parsed_args: argparse.Namespace) -> IdMaps | None:
    """Return the ID maps of the command line, None if it has none.

    :raises ConfigError: if they are bad, or one is missing.
    """
    texts = {
        "--uid-map": parsed_args.uid_map,
        "--gid-map": parsed_args.gid_map,
    }
    missing = [name for name, text in texts.items() if text is None]
    if len(missing) == len(texts):
        return None
    if missing:
        raise ConfigError(missing[0], "", "is needed beside the other map")
    uid, gid = (_parse_map(name, text) for name, text in texts.items())
    try:
        return IdMaps(uid, gid)
    except IdMapError as err:
        raise ConfigError("--gid-map", err.value, err.reason) from err


def _parse_map(option: str, text: str) -> IdMap:
    try:
        return IdMap.parse(text)
    except IdMapError as err:
        raise ConfigError(option, err.value, err.reason) from err


@contextmanager
def progress_bar(
    what: str, unit: str = " inodes", total: int | None = None
) -> Iterator[Callable[[int], None] | None]:
    """Show progress on a terminal.

    :param what: what is done, for the bar's left.
    :param unit: what is counted.
    :param total: how many there are, if that is known.
    :returns: what to call with the number so far, None if no one would see
        it.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    # Its own is for other processes as well, and Python 3.14 starts one to
    # look after that.
    tqdm.set_lock(threading.RLock())
    scaled = unit == BYTES
    with tqdm(
        desc=what,
        unit=unit,
        total=total,
        unit_scale=scaled,
        unit_divisor=1024,
        leave=False,
    ) as bar:

        def show(number: int) -> None:
            # It starts again for another walk over the tree.
            bar.n = number
            bar.refresh()

        yield show


def unpack_bar(
    archive: str,
) -> AbstractContextManager[Callable[[int], None] | None]:
    """Show how much of an archive has been read."""
    try:
        size = os.stat(archive).st_size
    except OSError:
        size = None  # Whoever opens it will say why.
    return progress_bar("unpack", BYTES, size)
