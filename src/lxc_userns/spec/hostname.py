# SPDX-License-Identifier: Apache-2.0
"""Host names of containers."""

from __future__ import annotations

import re
from typing import Final

#: As :manpage:`hostname(7)` has it, of the kernel's length.
_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME: Final = re.compile(rf"(?=.{{1,64}}$){_LABEL}(?:\.{_LABEL})*")


def check_hostname(text: str) -> str:
    """Return a host name.

    :param text: labels of letters, digits and inner hyphens, with dots
        between them; at most 64 characters.
    :raises ValueError: if it is none.
    """
    if not _HOSTNAME.fullmatch(text):
        raise ValueError(
            "expected labels of letters, digits and inner hyphens with dots "
            "between them, of at most 64 characters"
        )
    return text


def of_container(name: str) -> str | None:
    """Return the host name that libvirt makes of a container's name.

    :returns: None if it is none.
    """
    # It would keep a hyphen at the end.
    text = re.sub("[^A-Za-z0-9-]", "", name).rstrip("-")
    return text if _HOSTNAME.fullmatch(text) else None
