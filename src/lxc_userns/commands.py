# SPDX-License-Identifier: Apache-2.0
"""Commands of this program in messages: copied, they do what is meant.

So each names the configuration files that are read instead of the usual ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_PROGRAM = "lxc-userns"
#: Option of the program, and of the hook's, that names a configuration file.
CONFIG_FILE = "--config-file"
_FILES: ContextVar[tuple[str, ...]] = ContextVar("config_files", default=())


@contextmanager
def configured_by(files: Sequence[str]) -> Iterator[None]:
    """Give the commands of the body configuration files.

    :param files: absolute paths; none if the usual files are read.
    """
    before = _FILES.set(tuple(files))
    try:
        yield
    finally:
        _FILES.reset(before)


def command(*words: str) -> str:
    """Return a command, quoted for a shell.

    :param words: its name and arguments, as ``"domain", "prepare", name``.
    """
    # Loaded late: every error is loaded with this, also by libvirt's hook.
    import shlex

    return shlex.join([_PROGRAM, *options(_FILES.get()), *words])


def options(files: Sequence[str]) -> list[str]:
    """Return the options that name configuration files.

    :param files: as for :func:`configured_by`.
    """
    return [word for each in files for word in (CONFIG_FILE, each)]


def conversion(name: str, *more: str) -> str:
    """Return the command that converts a domain in place.

    :param name: its name, which can look like an option.
    :param more: further options of the command.
    """
    words = [name, "--in-place", *more]
    if name.startswith("-"):
        words = [*words[1:], "--", name]
    return command("domain", "convert", *words)
