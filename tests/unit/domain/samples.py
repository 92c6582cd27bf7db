# SPDX-License-Identifier: Apache-2.0
"""Domains of every kind, and an instance's promise for each."""

from pathlib import Path
from typing import Any

import pytest

from lxc_userns.domain import DomainParts, Filesystem, Marker
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.spec.requirements import DROPPED_PRIVATE

MAPS = IdMaps(
    uid=IdMap.parse("0:100000:65536"), gid=IdMap.parse("0:100000:65536")
)
#: Two entries, not in the order in which libvirt wants them.
PUNCHED_MAPS = IdMaps(
    uid=IdMap.parse("1000:200000:1,0:100000:1000"),
    gid=IdMap.parse("0:100000:65536"),
)
UUID = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"
VIEWS = "/run/lxc-userns/instance"
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
needs_schema = pytest.mark.skipif(
    not SCHEMA.exists(), reason="libvirt's RELAX NG schema is not installed"
)

#: By the name that each has.
DOCUMENTS = {
    path.stem: path.read_text()
    for path in sorted(Path(__file__).with_name("documents").iterdir())
}


def promise(name: str, **changes: Any) -> DomainParts:
    """Return what a domain of this name is to have."""
    arguments: dict[str, Any] = {
        "name": name,
        "uuid": UUID,
        "marker": Marker(rootfs=f"/srv/{name}", strategy="idmapped"),
        "filesystems": (Filesystem(f"{VIEWS}/root", "/", (f"/srv/{name}",)),),
        "id_maps": MAPS,
        "dropped_capabilities": tuple(sorted(DROPPED_PRIVATE)),
    }
    return DomainParts(**(arguments | changes))
