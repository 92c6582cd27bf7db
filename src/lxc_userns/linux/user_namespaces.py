# SPDX-License-Identifier: Apache-2.0
"""User namespaces that no one runs in (:manpage:`user_namespaces(7)`)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from lxc_userns.linux import programs
from lxc_userns.linux.fd import closed_on_error, open_file, owned

#: A row of ``uid_map``: first ID inside, first ID outside, number of IDs.
Row = tuple[int, int, int]

# Only a process of one thread can make a user namespace for itself, and a
# fork of a process with more may hang on a lock, so a program is executed
# that does it. The cat after it says by an echo that it is done, and ends
# when its input does: also if this process is killed.
_PROGRAM = ("unshare", "--user", "cat")
_ECHO = b"\n"
_LONGEST_MESSAGE = 4096


@contextmanager
def create(uid_map: Iterable[Row], gid_map: Iterable[Row]) -> Iterator[int]:
    """Make a user namespace with ID maps; it ends with its descriptor.

    :param uid_map: rows as the kernel reads them.
    :param gid_map: the same for group IDs.
    :returns: a descriptor of it.
    :raises OSError: if the kernel makes none, with what it says; EINVAL or
        EPERM if it refuses the maps.
    """
    with _started() as process:  # Closes the pipes, and reaps it.
        said = _converse(process)
        if said != _ECHO:
            text = said.decode(errors="replace").strip()
            raise OSError(
                f"the kernel makes none: {text}; see sysctl "
                "user.max_user_namespaces"
            )
        # Until it is reaped, its number is its own.
        fd = os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY)
        with closed_on_error(fd):
            _write_map(process.pid, "uid_map", uid_map)
            _write_map(process.pid, "gid_map", gid_map)
    with owned(fd):
        yield fd


def _started() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            _PROGRAM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd="/",
            env=programs.ENVIRONMENT,
        )
    except OSError as err:
        raise OSError(err.errno, f"{_PROGRAM[0]}: {err.strerror}") from err


def _converse(process: subprocess.Popen[bytes]) -> bytes:
    """Exchange an echo; return it, or why the process cannot go on."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("a process without pipes")
    with suppress(BrokenPipeError):
        process.stdin.write(_ECHO)
    said = process.stdout.read(_LONGEST_MESSAGE)
    if said != _ECHO:
        # It says why in several pieces, and ends.
        process.stdin.close()
        while part := process.stdout.read(_LONGEST_MESSAGE):
            said += part
    return said


def _write_map(pid: int, name: str, rows: Iterable[Row]) -> None:
    text = "".join(f"{inside} {outside} {n}\n" for inside, outside, n in rows)
    # The kernel takes it by one write or not at all.
    with open_file(f"/proc/{pid}/{name}", os.O_WRONLY) as fd:
        try:
            os.write(fd, text.encode("ascii"))
        except OSError as err:
            raise OSError(err.errno, f"{name}: {err.strerror}") from err
