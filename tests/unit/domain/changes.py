# SPDX-License-Identifier: Apache-2.0
"""The smallest of the sample domains, with changes."""

from __future__ import annotations

import pytest

from lxc_userns.domain import (
    Filesystem,
    apply,
    parts,
)
from lxc_userns.exceptions import DomainConflictError
from tests.unit.domain.samples import (
    DOCUMENTS,
    VIEWS,
    promise,
)

BARE = promise("bare")


def refused(text: str, wanted: parts.DomainParts) -> tuple[str, ...]:
    with pytest.raises(DomainConflictError) as caught:
        apply(text, wanted)
    assert caught.value.name == wanted.name
    assert "\n" not in str(caught.value)
    return caught.value.conflicts


def bare(old: str = "", new: str = "") -> str:
    text = DOCUMENTS["bare"]
    assert old in text
    return text.replace(old, new, 1)


NOTHING = "<capabilities policy='default'/>"
CONSOLE = "<console type='pty'/>"
SHARED = (
    "<lxc:namespace xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'>"
    "<lxc:share{} type='pid' value='{}'/></lxc:namespace>"
)


def idmap(uid: str, gid: str) -> str:
    return f"<idmap><uid {uid}/><gid {gid}/></idmap>"


def filesystem(kind: str, source: str, target: str, rest: str = "") -> str:
    name = {"file": "file", "block": "dev", "ram": "usage"}.get(kind, "dir")
    return (
        f"<filesystem type='{kind}'><source {name}='{source}'/>"
        f"<target dir='{target}'/>{rest}</filesystem>"
    )


ENTRY = "start='0' target='100000' count='65536'"
VOLUMES = (
    Filesystem(f"{VIEWS}/root", "/", ("/srv/bare",)),
    Filesystem(f"{VIEWS}/volume0", "/data", ("/srv/data",)),
    Filesystem(f"{VIEWS}/volume1", "/read", ("/srv/read",), True),
)
