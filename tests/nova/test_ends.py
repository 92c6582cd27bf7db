# SPDX-License-Identifier: Apache-2.0
"""Servers that are deleted, in whatever state: nothing is left of them."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.nova.conftest import (
    ImageFactory,
    NovaFactory,
    cleaned,
    need_freezer,
)
from tests.nova.harness import Nova
from tests.nova.ours import LEASES, changed, resizable
from tests.nova.server import Server

MOMENTS = 10


@pytest.fixture(scope="module")
def shared_nova(
    shared_pool: None, start_shared_nova: NovaFactory, strategy: str
) -> Nova:
    """Start one where a server that is shelved stays at first."""
    settings = changed("DEFAULT", LEASES, shelved_offload_time=-1)
    return start_shared_nova(resizable(strategy, settings))


@pytest.fixture
def nova(shared_nova: Nova) -> Iterator[Nova]:
    """Give it without servers, and look that nothing is left."""
    yield from cleaned(shared_nova)


@pytest.fixture
def image(nova: Nova, busybox_image: ImageFactory) -> str:
    return nova.add_image(busybox_image("ext4"))


def pause(server: Server) -> None:
    need_freezer()
    server.action("pause")
    server.wait("PAUSED")


def fail(server: Server) -> None:
    """Let a start fail: what is on its disk is no filesystem."""
    server.stop()
    with server.disk.open("r+b") as disk:
        disk.write(bytes(1 << 20))
    server.action("os-start")
    server.what_failed("start")


def shelve(server: Server) -> None:
    server.action("shelve")
    server.wait("SHELVED")


def offload(server: Server) -> None:
    shelve(server)
    server.action("shelveOffload")
    server.wait("SHELVED_OFFLOADED")


def resize(server: Server) -> None:
    server.resize(server.nova.flavor(1, hw__watchdog_action="disabled"))


def end(server: Server) -> None:
    """Let its init end, of which Nova is not told at once."""
    server.run_in("poweroff", "-f", check=False)


@pytest.mark.parametrize(
    "bring",
    [Server.stop, pause, fail, shelve, offload, resize, end],
    ids=lambda each: str(each.__name__),
)
def test_in_a_state(
    nova: Nova, image: str, bring: Callable[[Server], None]
) -> None:
    server = nova.boot(image)
    bring(server)
    server.delete()
    nova.wait_for_no_leftovers()


def test_at_ten_moments_while_spawning(nova: Nova, image: str) -> None:
    began = time.monotonic()
    server = nova.boot(image)
    longest = time.monotonic() - began
    server.delete()
    for number in range(MOMENTS):
        server = nova.create(image)
        # Whichever moment it is, that is the same.
        time.sleep(longest * number / MOMENTS)
        server.delete()
        nova.wait_for_no_leftovers()
