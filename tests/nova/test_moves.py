# SPDX-License-Identifier: Apache-2.0
"""Servers that come to the host and leave it: leases go with them."""

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory
from tests.nova.harness import FIRST_HOST, OTHER_HOST, Nova, Settings
from tests.nova.ours import LEASES, is_private
from tests.nova.server import Server

BASE = 2_000_000_000
EPHEMERAL = "OS-FLV-EXT-DATA:ephemeral"
SAME_HOST: Settings = {
    **LEASES,
    "DEFAULT": {**LEASES["DEFAULT"], "allow_resize_to_same_host": True},
}
CHOWN: Settings = {
    **LEASES,
    "lxc_userns": {**LEASES["lxc_userns"], "rootfs_strategy": "chown"},
}

pytestmark = pytest.mark.usefixtures("pool")


@pytest.fixture
def nova(start_nova: NovaFactory) -> Nova:
    """Start one with leases."""
    return start_nova(LEASES)


def is_leased(server: Server) -> bool:
    """Return whether the first host keeps a range for it alone."""
    leases = server.nova.leftovers().leases
    assert leases in ((), (server.name,))
    return bool(leases)


def boot(nova: Nova, busybox_image: ImageFactory) -> Server:
    """Boot one with a file on each of its disks, and a config drive."""
    image = nova.add_image(busybox_image("ext4"))
    flavor = nova.flavor(1, EPHEMERAL)
    server = nova.boot(image, flavor=flavor, config_drive=True)
    for place in ("/root", "/mnt"):
        server.run_in("sh", "-c", f"echo kept >{place}/note; sync")
    return server


def is_kept(server: Server) -> bool:
    """Return whether it is here again, with all of them."""
    told = "/config-drive/openstack/latest/meta_data.json"
    assert server.id in server.run_in("cat", told).stdout
    for place in ("/root", "/mnt"):
        assert server.run_in("cat", f"{place}/note").stdout == "kept\n"
    return is_private(server, BASE)


def migrate(server: Server, host: str) -> None:
    server.action("migrate", {"host": host})
    server.wait("VERIFY_RESIZE")
    assert server.host == host


def test_cold_migration_confirmed(
    nova: Nova, busybox_image: ImageFactory
) -> None:
    server = boot(nova, busybox_image)
    nova.start_other()
    migrate(server, OTHER_HOST)
    # It may come back.
    assert is_leased(server)
    server.confirm()
    assert not is_leased(server)
    assert nova.leftovers().domains == ()


@pytest.mark.parametrize("settings", [LEASES, CHOWN], ids=["auto", "chown"])
def test_cold_migration_reverted(
    start_nova: NovaFactory, busybox_image: ImageFactory, settings: Settings
) -> None:
    nova = start_nova(settings)
    server = boot(nova, busybox_image)
    nova.start_other()
    migrate(server, OTHER_HOST)
    server.revert()
    assert server.host == FIRST_HOST
    assert is_leased(server)
    assert is_kept(server)
    nova.clean()


@pytest.mark.parametrize("is_sharing", [False, True])
def test_migration_to_here_reverted(
    nova: Nova, busybox_image: ImageFactory, is_sharing: bool
) -> None:
    nova.start_other(is_sharing=is_sharing)
    image = nova.add_image(busybox_image("ext4"))
    server = nova.boot(image, host=OTHER_HOST)
    migrate(server, FIRST_HOST)
    assert is_private(server, BASE)
    assert is_leased(server)
    server.revert()
    assert server.host == OTHER_HOST
    assert not is_leased(server)


@pytest.mark.parametrize("verb", ["confirm", "revert"])
def test_resize_on_one_host(
    start_nova: NovaFactory, busybox_image: ImageFactory, verb: str
) -> None:
    nova = start_nova(SAME_HOST)
    server = boot(nova, busybox_image)
    server.resize(nova.flavor(1, EPHEMERAL, hw__watchdog_action="disabled"))
    assert is_leased(server)
    assert is_kept(server)
    getattr(server, verb)()
    assert is_leased(server)
    assert is_kept(server)
    nova.clean()


@pytest.mark.parametrize("is_sharing", [False, True])
def test_evacuation(
    nova: Nova, busybox_image: ImageFactory, is_sharing: bool
) -> None:
    server = boot(nova, busybox_image)
    nova.start_other(is_sharing=is_sharing)
    nova.stop_compute()
    nova.force_down(FIRST_HOST)
    server.action("evacuate", {"host": OTHER_HOST})
    # Who evacuates it starts it.
    server.wait("SHUTOFF")
    assert is_leased(server)
    nova.start_compute()
    assert not is_leased(server)
    assert nova.leftovers().domains == ()
    assert server.directory.exists() == is_sharing


def test_shelving(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    nova = start_nova(
        {**LEASES,
         "DEFAULT": {**LEASES["DEFAULT"], "shelved_offload_time": -1}}
    )  # fmt: skip
    server = boot(nova, busybox_image)
    server.action("shelve")
    server.wait("SHELVED")
    assert is_leased(server)
    server.action("shelveOffload")
    server.wait("SHELVED_OFFLOADED")
    assert not is_leased(server)
    server.action("unshelve")
    server.wait("ACTIVE")
    assert is_private(server, 2_000_065_536)
    assert server.run_in("cat", "/root/note").stdout == "kept\n"
    nova.clean()
