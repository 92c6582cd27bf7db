# SPDX-License-Identifier: Apache-2.0
"""Servers that come to the host and leave it: leases go with them."""

import subprocess

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory
from tests.nova.harness import FIRST_HOST, OTHER_HOST, Nova, wait_until
from tests.nova.ours import LEASES, changed, is_private, resizable
from tests.nova.server import Server

BASE = 2_000_000_000
EPHEMERAL = "OS-FLV-EXT-DATA:ephemeral"

pytestmark = pytest.mark.usefixtures("pool")


@pytest.fixture
def nova(start_nova: NovaFactory, strategy: str) -> Nova:
    """Start one with leases."""
    return start_nova(resizable(strategy, LEASES))


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


def evacuate(server: Server, lost: str, host: str) -> None:
    """Take it from a host that is down; who does starts it."""
    if lost == FIRST_HOST:
        server.nova.stop_compute()
    server.nova.force_down(lost)
    server.action("evacuate", {"host": host})
    server.wait("SHUTOFF")
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
    # What was taken along is the disk, and not the image again.
    argv = ["debugfs", "-R", "cat /root/note", str(server.disk)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout == "kept\n"


def test_a_delete_before_it_is_confirmed(
    nova: Nova, busybox_image: ImageFactory
) -> None:
    server = boot(nova, busybox_image)
    nova.start_other()
    migrate(server, OTHER_HOST)
    server.delete()
    wait_until(lambda: not nova.leftovers().leases, nova.leftovers)
    assert nova.leftovers().domains == ()
    # Disks are copied on one host; what the other only pretends to have is
    # in the directory without a suffix.
    assert nova.leftovers().directories == (server.id,)


def test_cold_migration_reverted(
    nova: Nova, busybox_image: ImageFactory
) -> None:
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
    nova: Nova, busybox_image: ImageFactory, verb: str
) -> None:
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
    evacuate(server, FIRST_HOST, OTHER_HOST)
    assert is_leased(server)
    nova.start_compute()
    assert not is_leased(server)
    assert nova.leftovers().domains == ()
    assert server.directory.exists() == is_sharing


@pytest.mark.parametrize("is_sharing", [False, True])
def test_evacuation_to_here(
    nova: Nova, busybox_image: ImageFactory, is_sharing: bool
) -> None:
    """Of what was here before; each host takes a range of its own."""
    server = boot(nova, busybox_image)
    nova.start_other(is_sharing=is_sharing)
    evacuate(server, FIRST_HOST, OTHER_HOST)
    nova.start_compute()
    nova.force_down(FIRST_HOST, is_down=False)
    evacuate(server, OTHER_HOST, FIRST_HOST)
    server.start()
    assert is_private(server, BASE + 65536)
    done = server.run_in("cat", "/root/note", check=False)
    assert done.stdout == ("kept\n" if is_sharing else "")
    nova.clean()


def test_shelving(
    start_nova: NovaFactory, busybox_image: ImageFactory, strategy: str
) -> None:
    settings = changed("DEFAULT", LEASES, shelved_offload_time=-1)
    nova = start_nova(resizable(strategy, settings))
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
