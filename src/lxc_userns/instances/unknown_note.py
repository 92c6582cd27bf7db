# SPDX-License-Identifier: Apache-2.0
"""Note on a file of an instance: since when libvirt does not know it.

It is an extended attribute, which older versions leave alone, and goes when
the file is written anew.
"""

from __future__ import annotations

import errno
import os

_NAME = "user.lxc_userns.unknown_since"


def read(fd: int) -> int | None:
    """Return what is noted on a file.

    :returns: seconds of Unix time; None if nothing is.
    """
    try:
        return int(os.getxattr(fd, _NAME))
    except ValueError:
        return None
    except OSError as err:
        if err.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def write(fd: int, now: int) -> None:
    """Note on a file that libvirt may not know it, unless that is noted.

    :param now: in seconds of Unix time.
    :raises OSError: if the filesystem keeps no extended attributes.
    """
    # A note of the future is of a clock that was set back since.
    if 0 <= (read(fd) or -1) <= now:
        return
    os.setxattr(fd, _NAME, str(now).encode())
    os.fsync(fd)


def remove(fd: int) -> None:
    """Note on a file that libvirt knows it."""
    if read(fd) is not None:
        os.removexattr(fd, _NAME)
        os.fsync(fd)
