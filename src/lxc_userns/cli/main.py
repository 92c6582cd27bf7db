# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns``: find the command, run it, say in one line what failed."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import FrameType
from typing import Any, NoReturn, TextIO

from cliff.app import App
from cliff.command import Command
from cliff.commandmanager import CommandManager

from lxc_userns import commands
from lxc_userns.text import one_line

PROGRAM = "lxc-userns"
_USAGE = 2
_INTERRUPTED = 128 + signal.SIGINT
_BROKEN_PIPE = 128 + signal.SIGPIPE

#: Commands and where they are; loaded when they are called.
_COMMANDS = {
    "host check": "host:Check",
    "host hook install": "host:HookInstall",
    "host hook remove": "host:HookRemove",
    "config check": "config:Check",
    "metrics": "metrics:Metrics",
    "rootfs shift": "rootfs:Shift",
    "rootfs unshift": "rootfs:Unshift",
    "rootfs verify": "rootfs:Verify",
    "rootfs unpack": "rootfs:Unpack",
    "rootfs pack": "pack:Pack",
    "rootfs mount": "rootfs:Mount",
    "rootfs unmount": "rootfs:Unmount",
    "lease acquire": "lease:Acquire",
    "lease release": "lease:Release",
    "lease list": "lease:List",
    "lease gc": "gc:LeaseGc",
    "gc": "gc:Gc",
    "domain idmap": "domain:IdMap",
    "domain convert": "convert:Convert",
    "domain prepare": "convert:Prepare",
    "domain audit": "domain:Audit",
    "container run": "container_run:Run",
    "container exec": "exec:Exec",
    "container list": "container:List",
    "container logs": "logs:Logs",
    "container show": "container:Show",
    "container verify": "container_life:Verify",
    "container stop": "container_life:Stop",
    "container start": "container_life:Start",
    "container restart": "container_life:Restart",
    "container wait": "container_life:Wait",
    "container destroy": "container_life:Destroy",
    "container autostart": "container:Autostart",
    "complete": "complete:Complete",
}


#: First words of commands.
_GROUPS = frozenset(name.split()[0] for name in _COMMANDS)


class OneLineFormatter(logging.Formatter):
    """An error and its notes in one line, with a traceback only if asked."""

    def __init__(self, *, tracebacks: bool, levels: bool = True) -> None:
        super().__init__("%(message)s")
        self._tracebacks = tracebacks
        self._levels = levels

    def format(self, record: logging.LogRecord) -> str:
        """Write ``error: what; note``."""
        text = record.getMessage()
        if isinstance(record.msg, BaseException):
            text = describe(record.msg)
        line = one_line(text)
        if self._levels:
            line = f"{record.levelname.lower()}: {line}"
        if self._tracebacks and record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def describe(error: BaseException) -> str:
    """Return the text of an error, and of what went wrong while undoing."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
        if error.filename:
            text = f"{os.fsdecode(error.filename)}: {text}"
    if isinstance(error, UnicodeEncodeError):
        # Of a path that was recorded under another locale.
        text = (
            f"{error.object!r}: the encoding of the locale, {error.encoding}, "
            "cannot express it; set LC_ALL=C.UTF-8"
        )
    return "; ".join((text, *getattr(error, "__notes__", ())))


def usage_error(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """End with one line; all of the usage would hide what is wrong."""
    parser.exit(_USAGE, f"error: {message}; see {parser.prog} --help\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and not all of the usage."""
        usage_error(self, message)

    # Of what cannot be printed cliff would print a traceback, and argparse of
    # Python 3.13 says nothing.
    def _print_message(self, message: str, file: Any = None) -> None:
        try:
            (file or sys.stderr).write(message)
        except OSError as err:
            sys.exit(_fail_to_print(err))


class LxcUserns(App):
    """The program."""

    NAME = PROGRAM
    LOG = logging.getLogger(PROGRAM)

    def __init__(self) -> None:
        # Of no entry points, which older versions of cliff ask for.
        manager = CommandManager("")
        self._error_code: int | None = None
        #: Whether a command has come to its end, by whatever exit code.
        self.has_ended = False
        #: Those of "container exec", in which no option is looked for.
        self.command_in_container: list[str] = []
        super().__init__(
            description="User namespaces for libvirt-LXC containers.",
            version=metadata.version(PROGRAM),
            command_manager=manager,
            # Else --help after a command would be the program's own.
            deferred_help=True,
        )
        # cliff has a command "complete" of its own.
        for name, place in _COMMANDS.items():
            manager.commands[name] = metadata.EntryPoint(
                name, f"lxc_userns.cli.{place}", "lxc_userns.cli"
            )

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, object] | None = None,
    ) -> argparse.ArgumentParser:
        """Return the options before the command."""
        # It also sees those of the command: no abbreviations.
        parser = _Parser(
            prog=PROGRAM,
            description=description,
            add_help=False,
            allow_abbrev=False,
        )
        parser.add_argument(
            "-h",
            "--help",
            action="store_true",
            dest="deferred_help",
            help="Show this help, or that of the command.",
        )
        parser.add_argument(
            "--version", action="version", version=f"{PROGRAM} {version}"
        )
        parser.add_argument(
            "-v",
            "--verbose",
            action="count",
            default=0,
            help="Say more; twice to say all.",
        )
        parser.add_argument(
            "--debug",
            action="store_true",
            help="Show where an error comes from.",
        )
        parser.add_argument(
            "--config-file",
            action="append",
            metavar="FILE",
            help="Configuration file, instead of the usual ones; can be "
            "given several times, later ones prevail.",
        )
        return parser

    def configure_logging(self) -> None:
        """Send errors to standard error, and all else nowhere unless asked.

        Where that is systemd's journal, to the journal with fields.
        """
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if isinstance(handler.formatter, OneLineFormatter):
                root.removeHandler(handler)
        handler, in_journal = logging.StreamHandler(self.stderr), False
        # Where it is not, the module need not be loaded.
        if "JOURNAL_STREAM" in os.environ:
            from lxc_userns.linux import journal

            if in_journal := journal.has_stderr():
                handler = journal.JournalHandler(PROGRAM)
        handler.setFormatter(
            OneLineFormatter(
                tracebacks=self.options.debug, levels=not in_journal
            )
        )
        root.addHandler(handler)
        levels = (logging.WARNING, logging.INFO, logging.DEBUG)
        root.setLevel(levels[min(self.options.verbose, 2)])
        # It logs as errors what it goes on to raise.
        logging.getLogger("stevedore").setLevel(logging.CRITICAL)

    def run(self, argv: list[str]) -> int:
        """Run a command; without one, say which there are."""
        if not argv:
            self.parser.error("no command")
        # To load a module takes its time, of which "--version" has little.
        if "exec" in argv:
            from lxc_userns.cli import exec_arguments

            argv, self.command_in_container = exec_arguments.split(argv)
        return super().run(argv)

    def interact(self) -> None:
        """Refuse options without a command, instead of starting a shell."""
        self.parser.error("no command")

    def run_subcommand(self, argv: list[str]) -> int:
        """Run the command that the arguments begin with."""
        # cliff makes of "command --help" a "help command", and its help takes
        # any beginning of a command for one.
        is_help = argv[0] == "help"
        asked = argv[1:] if is_help else argv
        try:
            if not (is_help and len(asked) < 2 and _GROUPS.issuperset(asked)):
                self.command_manager.find_command(asked)
        except ValueError:
            self.stderr.write(f"error: {self._explain(asked)}\n")
            return _USAGE
        files = map(os.path.abspath, self.options.config_file or ())
        with commands.configured_by([*files]):
            code: int = super().run_subcommand(argv)
        self.has_ended = True
        return code if self._error_code is None else self._error_code

    def clean_up(
        self, cmd: Command, result: int, err: BaseException | None
    ) -> None:
        """Note the exit code for the error that ended a command."""
        super().clean_up(cmd, result, err)
        if isinstance(err, Exception) and not isinstance(err, BrokenPipeError):
            from lxc_userns.cli.exit_codes import exit_code

            code = getattr(cmd, "error_code", exit_code)
            self._error_code = code(err)

    def _explain(self, argv: list[str]) -> str:
        if argv[0].startswith("-"):
            return f"unknown option {argv[0]}; see {PROGRAM} --help"
        group = [name for name in _COMMANDS if name.split()[0] == argv[0]]
        if group:
            return f"incomplete or unknown command, try: {', '.join(group)}"
        return f"unknown command {argv[0]!r}; see {PROGRAM} --help"


def main(
    argv: Sequence[str] | None = None,
    make: Callable[[], LxcUserns] = LxcUserns,
) -> int:
    """Run the program.

    :param argv: arguments, without the program's name.
    :param make: makes the program, with its commands.
    :returns: exit code: 0 done, 1 failed or findings, 2 wrong usage, 4 and 5
        as :func:`lxc_userns.cli.exit_codes.exit_code`, and as is usual 130 if
        it was interrupted, 141 if the reader of what it prints has gone.
    """
    _prepare_streams()
    try:
        with _ending_in_order():
            program = make()
            code = program.run(list(sys.argv[1:] if argv is None else argv))
            # What "container exec" runs can end by the same code.
            if code == _INTERRUPTED and not program.has_ended:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = _INTERRUPTED
    except SystemExit as end:  # --help, --version and wrong usage.
        code = end.code if isinstance(end.code, int) else 0
    return _flush() or code


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Take the signals that end a program as an interrupt.

    What is half done is undone then: a container that is started, and not
    yet verified, does not go on to run.
    """
    before = [
        number
        for number in _HANDLERS
        if signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in before:
        signal.signal(number, _HANDLERS[number])
    try:
        yield
    finally:
        for number in before:
            # After one there may come more, as of a whole process group.
            if signal.getsignal(number) is _HANDLERS[number]:
                signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Once is enough; the undoing is not to be interrupted.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


_HANDLERS: Mapping[signal.Signals, Callable[[int, FrameType | None], None]] = {
    signal.SIGTERM: _interrupt,
    signal.SIGHUP: _interrupt,
    # Not of an interpreter that has its own handler; and twice is possible.
    signal.SIGINT: signal.default_int_handler,
}


def _flush() -> int:
    """Write what is left, so that the interpreter has nothing to fail on."""
    code = 0
    try:
        sys.stdout.flush()
    except OSError as err:
        code = _fail_to_print(err)
    try:
        sys.stderr.flush()
    except OSError:  # There is nowhere to say so.
        _discard(sys.stderr)
    return code


def _fail_to_print(err: OSError) -> int:
    """Say why, and print nothing more; return the exit code."""
    _discard(sys.stdout)
    if isinstance(err, BrokenPipeError):
        return _BROKEN_PIPE
    sys.stderr.write(f"error: standard output: {err.strerror}\n")
    return 1


def _discard(stream: TextIO) -> None:
    """Write nowhere what is left of a stream, and all that is to come."""
    with _open_nowhere() as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _prepare_streams() -> None:
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Nothing that is opened is to become one of them.
            os.open(os.devnull, os.O_RDWR)
    # Either is None if it was closed.
    sys.stdout = sys.stdout or _open_nowhere()
    sys.stderr = sys.stderr or _open_nowhere()
    for stream in (sys.stdout, sys.stderr):
        # Paths need not be text in the encoding of the terminal.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
