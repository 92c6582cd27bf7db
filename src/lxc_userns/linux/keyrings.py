# SPDX-License-Identifier: Apache-2.0
"""Keys that the kernel keeps (:manpage:`keyrings(7)`)."""

from __future__ import annotations

import ctypes
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
    keyring they are.

    :param name: the description of the keys.
    :raises OSError: if the library for it is not there, or the kernel has no
        keys.
    """
    for key in _numbers(name):
        # Of somebody else, it can have any name; and it may have gone.
        with suppress(OSError):
            kind, uid, _ = _describe(key).split(";", 2)
            if (kind, uid) == ("user", "0"):
                yield _read(key)


def _numbers(name: str) -> Iterator[int]:
    with _KEYS.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # Number, flags, usage, timeout, permissions, user, group, type,
            # and the description with the length of the value (proc_keys(5)).
            fields = line.split(maxsplit=8)
            if len(fields) == 9 and fields[8].startswith(f"{name}: "):
                with suppress(ValueError):
                    yield int(fields[0], 16)


def _describe(key: int) -> str:
    return _call("keyctl_describe", key).rstrip(b"\0").decode(errors="replace")


def _read(key: int) -> bytes:
    return _call("keyctl_read", key)


def _call(name: str, key: int) -> bytes:
    """Have a function of the library fill a buffer."""
    call = libc.function(
        name,
        ctypes.c_int32,
        ctypes.c_char_p,
        ctypes.c_size_t,
        restype=ctypes.c_long,
        library=_LIBRARY,
    )
    buffer = ctypes.create_string_buffer(_LONGEST)
    # That of the whole, which may not have fitted.
    length = call(key, buffer, _LONGEST)
    return buffer.raw[:length]
