# SPDX-License-Identifier: Apache-2.0
"""Hard links: who may make one (sysctl/fs.rst of the kernel)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lxc_userns.exceptions import PrerequisiteError

_SYSCTL: Final = Path("/proc/sys/fs/protected_hardlinks")


def check_protected(sysctl: Path = _SYSCTL) -> None:
    """Check that users cannot make links to the files of others.

    A user's own tree could have one, of any file on that filesystem, and to
    change the owners in the tree would be to give that file away.

    :param sysctl: file of the kernel's setting.
    :raises PrerequisiteError: if they can, or that is not known.
    """
    try:
        value = sysctl.read_text(encoding="ascii").strip()
    except OSError as err:
        value = f"not known ({err.strerror})"
    if value != "1":
        raise PrerequisiteError(
            f"sysctl fs.protected_hardlinks is {value}, so that a service "
            "could have files of root's in a tree of its own, and their "
            "owners changed; set it to 1, in /etc/sysctl.d"
        )
