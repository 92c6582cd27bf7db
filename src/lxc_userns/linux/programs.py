# SPDX-License-Identifier: Apache-2.0
"""Programs of the host, run with nothing of the caller's."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # It loads little, for processes that start quickly.
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import IO

#: What a program has for its environment: messages are in English.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_PACKAGE_PARENT = os.path.abspath(f"{__file__}/../../..")


def run(
    argv: Sequence[str],
    *,
    pass_fds: Collection[int] = (),
    timeout: float | None = None,
) -> None:
    """Run a program to its end; what it prints is only for an error.

    :param argv: its name, found in ``PATH``, and its arguments.
    :param pass_fds: descriptors that it inherits.
    :param timeout: seconds that it may take; None for as long as it takes.
    :raises OSError: if it cannot be run or fails, with what it said.
    :raises subprocess.TimeoutExpired: if it takes longer.
    """
    import subprocess

    done = subprocess.run(
        argv,
        pass_fds=tuple(pass_fds),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        env=ENVIRONMENT,
        text=True,
        errors="backslashreplace",
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise OSError(" ".join(done.stderr.split()) or f"{argv[0]} failed")


def python_argv(module: str, *arguments: str) -> list[str]:
    """Return the command for a process of this package.

    It runs ``main()`` of a module in an interpreter without site packages,
    which starts in a few milliseconds and reads no variable of the caller's.

    :param module: the whole name of a module of this package that imports
        nothing but this package and the standard library.
    :param arguments: in ``sys.argv``, from the third on.
    """
    code = (
        "import sys; sys.path.append(sys.argv[1]); "
        f"from {module} import main; main()"
    )
    return [
        sys.executable,
        "-I",
        "-S",
        "-c",
        code,
        _PACKAGE_PARENT,
        *arguments,
    ]


def pipe_fd(pipe: IO[bytes] | None) -> int:
    """Return the descriptor of a pipe that a process was started with."""
    if pipe is None:
        raise ValueError("the process was started without this pipe")
    return pipe.fileno()
