# SPDX-License-Identifier: Apache-2.0
"""Texts that a user is told by default, and where Nova tries again."""

from pathlib import Path

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory
from tests.nova.harness import OTHER_HOST, wait_until
from tests.nova.ours import DRIVER, LEASES, is_private, resizable
from tests.nova.server import Server


def damage(image: Path) -> bytes:
    """Leave nothing in it that can be mounted; what was there."""
    with image.open("r+b") as stream:
        head = stream.read(1 << 20)
        stream.seek(0)
        stream.write(bytes(1 << 20))
    return head


def repair(image: Path, head: bytes) -> None:
    """Put back what was there."""
    with image.open("r+b") as stream:
        stream.write(head)


def wait_for_fault(server: Server, text: str) -> None:
    """Wait until the last one is this: it comes after the status."""
    wait_until(
        lambda: text in server.show().get("fault", {}).get("message", ""),
        lambda: server.show().get("fault"),
    )


def test_a_policy_that_refuses_a_flavor(
    start_nova: NovaFactory, busybox_image: ImageFactory, strategy: str
) -> None:
    """No other host is asked for: there is none, and no word of it."""
    nova = start_nova(resizable(strategy))
    image = nova.add_image(busybox_image("ext4"))
    flavor = nova.flavor(lxc_userns__mode="host")
    server = nova.boot(image, "ERROR", flavor=flavor)
    assert "userns_policy = required asks for one" in server.fault
    assert "maximum number of retries" not in server.fault
    nova.clean()


def test_an_image_that_cannot_be_mounted(
    start_nova: NovaFactory, directory: Path, strategy: str
) -> None:
    nova = start_nova(resizable(strategy))
    broken = directory / "no-filesystem"
    broken.write_bytes(bytes(1 << 20))
    server = nova.boot(nova.add_image(broken), "ERROR")
    assert "is no raw image of ext2, ext3, ext4" in server.fault
    assert "maximum number of retries" not in server.fault
    nova.clean()


@pytest.mark.usefixtures("pool")
def test_no_range_left(
    start_nova: NovaFactory, busybox_image: ImageFactory, strategy: str
) -> None:
    """Another host is tried; Nova does not show why there was no other."""
    nova = start_nova(resizable(strategy, LEASES))
    image = nova.add_image(busybox_image("ext4"))
    large = nova.flavor(lxc_userns__range_size="131072")
    nova.boot(image, flavor=large)
    server = nova.boot(image, "ERROR", flavor=large)
    assert "Exhausted all hosts available" in server.fault
    warnings = "\n".join(each.text for each in nova.problems("WARNING"))
    assert "instance-00000002: no range of 131072" in warnings
    server.delete()
    nova.start_other()
    assert nova.boot(image, flavor=large).host == OTHER_HOST
    assert nova.leftovers().leases == ("instance-00000001",)
    nova.clean()


def test_a_flavor_that_no_host_can_serve(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    """An API beside which this is not installed lets it through."""
    nova = start_nova(DRIVER)
    image = nova.add_image(busybox_image("ext4"))
    flavor = nova.flavor()
    nova.run("tests.nova.injections:add_extra_spec", flavor,
             "lxc_userns:range_size", "5")  # fmt: skip
    server = nova.boot(image, "ERROR", flavor=flavor)
    assert "range_size '5': expected 6..4294967294" in server.fault
    nova.clean()


@pytest.mark.usefixtures("pool")
def test_a_pool_that_is_too_small_for_a_flavor(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    """Another host may be in order."""
    nova = start_nova(LEASES)
    image = nova.add_image(busybox_image("ext4"))
    flavor = nova.flavor(lxc_userns__range_size="262144")
    server = nova.boot(image, "ERROR", flavor=flavor)
    assert "Exhausted all hosts available" in server.fault
    warnings = "\n".join(each.text for each in nova.problems("WARNING"))
    assert "have no room for 262144" in warnings
    nova.clean()


def test_one_that_ends_at_once(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    """Nova's own driver builds for ever, and has room for ten builds."""
    nova = start_nova(DRIVER)
    image = nova.add_image(busybox_image("ext4"))
    nova.run("tests.nova.injections:end_when_verified")
    server = nova.boot(image, "ERROR")
    warnings = "\n".join(map(str, nova.history()))
    assert "its first process has ended at once" in warnings
    assert not server.directory.exists()
    nova.clean()


def test_a_start_and_a_reboot_that_fail(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    nova = start_nova(DRIVER)
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    server.stop()
    head = damage(server.disk)
    server.action("os-start")
    assert "is no raw image of ext2, ext3" in server.what_failed("start")
    repair(server.disk, head)
    server.reboot("HARD")
    assert is_private(server)
    server.stop()
    damage(server.disk)
    server.action("reboot", {"type": "HARD"})
    server.wait("ERROR")
    wait_for_fault(server, "is no raw image of ext2, ext3, ext4")
    nova.clean()
