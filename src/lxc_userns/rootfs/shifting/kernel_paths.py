# SPDX-License-Identifier: Apache-2.0
"""Paths as the kernel names them, for messages; nothing is opened by them."""

from __future__ import annotations

import os

#: In place of a path longer than PATH_MAX.
_TOO_LONG = "/..."


def of_directory(fd: int) -> str:
    """Return the path of an open directory."""
    return _read(f"fd/{fd}")


def of_name(name: bytes) -> str:
    """Return the path of a name in the working directory."""
    # Not getcwd(), which refuses a detached mount.
    return _join(_read("cwd"), name)


def located(err: OSError, fd: int, name: bytes) -> OSError:
    """Return an error with the path of a name in an open directory."""
    path = _join(of_directory(fd), name)
    return OSError(err.errno, err.strerror, path)


def of_error(err: Exception) -> str:
    """Return the path that an error is about.

    Its file name is a path, or a name in the working directory.
    """
    name = getattr(err, "filename", None)
    name = os.fsencode(name) if isinstance(name, (bytes, str)) else b""
    return os.fsdecode(name) if name.startswith(b"/") else of_name(name)


def _join(parent: str, name: bytes) -> str:
    return f"{parent}/{os.fsdecode(name)}"


def _read(link: str) -> str:
    try:
        return os.readlink(f"/proc/thread-self/{link}").rstrip("/")
    except OSError:
        return _TOO_LONG
