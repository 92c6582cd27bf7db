# SPDX-License-Identifier: Apache-2.0
"""Keys that the kernel keeps (:manpage:`keyrings(7)`)."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lxc_userns.linux import libc

# The C library has no wrappers, and the number of the system call is another
# on each architecture.
_LIBRARY = "libkeyutils.so.1"
_KEYS = Path("/proc/keys")
_LONGEST = 256


def read_keys_of_root(name: str) -> Iterator[bytes]:
    """Yield the values of all keys of type ``user`` that root has by a name.

    Those are found that root may see and read as their owner, in whatever
    keyring they are. A value of more than 256 bytes is left out.

    :param name: the description of the keys.
    :raises OSError: if the library for it is not there, or the kernel has no
        keys.
    """
    for key in _numbers(name):
        # It may have gone, or be another than the line has said.
        with suppress(OSError):
            if _is_of_root(key, name):
                yield _call("keyctl_read", key)


def _numbers(name: str) -> Iterator[int]:
    """Yield numbers of keys that may have a name.

    The kernel escapes no line break in a description, so any user can make
    up lines; each number is no more than a hint.
    """
    with _KEYS.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # Number, flags, usage, timeout, permissions, user, group, type,
            # and the description with the length of the value (proc_keys(5)).
            fields = line.split(maxsplit=8)
            if len(fields) == 9 and fields[8].startswith(f"{name}: "):
                with suppress(ValueError):
                    yield int(fields[0], 16)


def _is_of_root(key: int, name: str) -> bool:
    # Type, user, group, permissions, and the description as it is.
    fields = _call("keyctl_describe", key).rstrip(b"\0").split(b";", 4)
    return [*fields[:2], *fields[4:]] == [b"user", b"0", name.encode()]


def _call(name: str, key: int) -> bytes:
    """Let a function of the library fill a buffer.

    :raises OSError: if it fails, or has more than fits.
    """
    call = libc.function(
        name,
        ctypes.c_int32,
        ctypes.c_char_p,
        ctypes.c_size_t,
        restype=ctypes.c_long,
        library=_LIBRARY,
    )
    buffer = ctypes.create_string_buffer(_LONGEST)
    length = call(key, buffer, _LONGEST)
    if length > _LONGEST:
        # The kernel has filled in nothing then.
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    return buffer.raw[:length]
