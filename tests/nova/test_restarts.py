# SPDX-License-Identifier: Apache-2.0
"""Restarts of nova-compute, and of the host, with servers that run."""

from collections.abc import Iterator

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory, cleaned
from tests.nova.harness import Nova
from tests.nova.ours import LEASES, changed, is_private, resizable
from tests.nova.server import Server

BASE = 2_000_000_000

pytestmark = pytest.mark.usefixtures("pool")


def boot(nova: Nova, busybox_image: ImageFactory) -> Server:
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    server.run_in("sh", "-c", "echo kept >/root/note; sync")
    return server


def is_kept(server: Server) -> bool:
    """Return whether it is as it was, with its range and its files."""
    assert server.nova.leftovers().leases == (server.name,)
    assert server.run_in("cat", "/root/note").stdout == "kept\n"
    return is_private(server, BASE)


@pytest.fixture
def nova(start_nova: NovaFactory, strategy: str) -> Iterator[Nova]:
    """Start one, and look that nothing is left."""
    yield from cleaned(start_nova(resizable(strategy, LEASES)))


def test_of_the_service(nova: Nova, busybox_image: ImageFactory) -> None:
    """Containers run on, and are the next one's."""
    server = boot(nova, busybox_image)
    pid = server.init_pid()
    nova.stop_compute()
    nova.start_compute()
    assert server.init_pid() == pid
    assert is_kept(server)
    server.reboot("HARD")
    assert is_kept(server)
    server.stop()
    nova.stop_compute()
    nova.start_compute()
    server.start()
    assert is_kept(server)
    nova.stop_compute()
    nova.start_compute()
    server.delete()
    nova.wait_for_no_leftovers()


@pytest.mark.parametrize("does_resume", [True, False])
def test_of_the_host(
    start_nova: NovaFactory,
    busybox_image: ImageFactory,
    strategy: str,
    does_resume: bool,
) -> None:
    settings = changed(
        "DEFAULT", LEASES, resume_guests_state_on_host_boot=does_resume
    )
    nova = start_nova(resizable(strategy, settings))
    server = boot(nova, busybox_image)
    nova.stop_compute()
    # As a host that went down leaves it: neither processes nor mounts.
    server.domain().destroy()
    nova.leftovers().unmount()
    assert not nova.leftovers().mounts + nova.leftovers().loops
    nova.start_compute()
    server.wait()
    if not does_resume:
        # Nova notices at its next look, every ten minutes.
        assert not server.domain().isActive()
        server.reboot("HARD")
    assert is_kept(server)
    nova.clean()
