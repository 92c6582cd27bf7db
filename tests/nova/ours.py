# SPDX-License-Identifier: Apache-2.0
"""Nova with our driver: what it is set to, and how its servers are."""

import os

from tests.nova.harness import Settings
from tests.nova.server import Server

BASE, OTHER = 1_900_000_000, 1_800_000_000
OURS = "lxc_userns.LibvirtLXCDriver"


def maps(base: int) -> Settings:
    """ID maps for all instances."""
    text = f"0:{base}:65536"
    return {"libvirt": {"uid_maps": text, "gid_maps": text}}


DRIVER: Settings = {"DEFAULT": {"compute_driver": OURS}, **maps(BASE)}
LEASES: Settings = {
    "DEFAULT": {"compute_driver": OURS},
    "lxc_userns": {"subid_owner": "subid.test"},
}


def changed(
    section: str, settings: Settings = DRIVER, **options: object
) -> Settings:
    """Settings, the driver's by default, with others besides."""
    return {**settings, section: {**settings.get(section, {}), **options}}


def resizable(strategy: str, settings: Settings = DRIVER) -> Settings:
    """Settings of one strategy, where a resize may end on the same host."""
    settings = changed("DEFAULT", settings, allow_resize_to_same_host=True)
    return changed("lxc_userns", settings, rootfs_strategy=strategy)


def is_private(server: Server, base: int = BASE) -> bool:
    """Whether it has the ID maps, and files of its own IDs."""
    assert server.uid_map() == [[0, base, 65536]]
    assert server.namespace("user") != os.readlink("/proc/self/ns/user")
    assert server.namespace("net") != os.readlink("/proc/self/ns/net")
    assert mode_of(server, "/bin/su") == "4755 0"
    return True


def mode_of(server: Server, path: str) -> str:
    return server.run_in("stat", "-c", "%a %u", path).stdout.strip()
