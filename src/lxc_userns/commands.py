# SPDX-License-Identifier: Apache-2.0
"""Commands of this program in messages: copied, they do what is meant.

So each names the configuration files that are read instead of the usual ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_PROGRAM = "lxc-userns"
_OPTION = "--config-file"
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

    options = (word for each in _FILES.get() for word in (_OPTION, each))
    return shlex.join([_PROGRAM, *options, *words])


def conversion(name: str, *options: str) -> str:
    """Return the command that converts a domain in place.

    :param name: its name, which can look like an option.
    :param options: further options of the command.
    """
    words = [name, "--in-place", *options]
    if name.startswith("-"):
        words = [*words[1:], "--", name]
    return command("domain", "convert", *words)
