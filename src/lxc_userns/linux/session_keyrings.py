# SPDX-License-Identifier: Apache-2.0
"""Session keyrings (:manpage:`session-keyring(7)`)."""

from __future__ import annotations

import ctypes
import errno

from lxc_userns.linux import libc

TYPE_CHECKING = False  # It loads little, for processes that start quickly.
if TYPE_CHECKING:
    from collections.abc import Callable

# The number of the system call is another on each architecture.
_LIBRARY = "libkeyutils.so.1"


def load() -> Callable[[], None]:
    """Load what gives this process a session keyring that is new and empty.

    :returns: the function for it, which opens no file any more.
    :raises OSError: if the library for it is not there.
    """
    join = libc.function(
        "keyctl_join_session_keyring", ctypes.c_char_p, library=_LIBRARY
    )

    def join_new() -> None:
        try:
            join(None)
        except OSError as err:
            if err.errno != errno.ENOSYS:  # A kernel without keys.
                raise

    return join_new
