# SPDX-License-Identifier: Apache-2.0
"""Resources of a host for its servers, and the share of each."""

from pathlib import Path

import pytest

from tests.functional.capabilities import require
from tests.nova.conftest import ImageFactory, NovaFactory
from tests.nova.ours import LEASES, OTHER, is_private, maps, resizable
from tests.nova.server import Server


@pytest.mark.usefixtures("pool")
def test_a_host_without_ranges_is_not_chosen(
    start_nova: NovaFactory, busybox_image: ImageFactory, strategy: str
) -> None:
    """The pool has three, of which the flavor needs two."""
    nova = start_nova(resizable(strategy, LEASES))
    image = nova.add_image(busybox_image("ext4"))
    flavor = nova.flavor(
        lxc_userns__range_size="131072",
        resources__CUSTOM_LXC_USERNS_RANGE="2",
    )
    assert nova.boot(image, flavor=flavor).uid_map()[0][2] == 131072
    other = nova.boot(image, "ERROR", flavor=flavor)
    assert "No valid host was found" in other.fault
    one = nova.flavor(resources__CUSTOM_LXC_USERNS_RANGE="1")
    assert is_private(nova.boot(image, flavor=one), 2_000_131_072)
    nova.clean()


@pytest.mark.usefixtures("pool")
def test_a_pool_that_goes(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    """Placement removes no inventory of which somebody has something."""
    nova = start_nova(LEASES)
    image = nova.add_image(busybox_image("ext4"))
    flavor = nova.flavor(resources__CUSTOM_LXC_USERNS_RANGE="1")
    server = nova.boot(image, flavor=flavor)
    nova.problems()
    for name in ("subuid", "subgid"):
        Path(f"/etc/{name}").write_text("")
    nova.run("tests.nova.injections:update_resources")
    assert nova.tracebacks() == []
    nova.stop_compute()
    nova.configure({"lxc_userns": {"subid_owner": None}, **maps(OTHER)})
    nova.start_compute()
    other = nova.boot(image, "ERROR", flavor=flavor)
    assert "No valid host was found" in other.fault
    server.reboot("HARD")
    assert is_private(server, OTHER)
    assert is_private(nova.boot(image), OTHER)
    nova.clean()


@pytest.mark.usefixtures("pool")
def test_time_of_processors(
    start_nova: NovaFactory, busybox_image: ImageFactory, strategy: str
) -> None:
    nova = start_nova(resizable(strategy, LEASES))
    image = nova.add_image(busybox_image("ext4"))
    for specs, quota in (
        ({}, 100_000),
        ({"quota__cpu_period": "50000"}, 50_000),
        ({"quota__cpu_quota": "20000"}, 20_000),
    ):
        server = nova.boot(image, flavor=nova.flavor(**specs))
        limits = server.domain().schedulerParameters()
        assert limits["vcpu_quota"] == quota
        server.delete()
    nova.clean()


def gibibytes(server: Server) -> float:
    """The size of its root filesystem, as its own processes see it."""
    shown = server.run_in("stat", "-f", "-c", "%b %S", "/").stdout
    number, size = map(int, shown.split())
    return number * size / (1 << 30)


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("ext4", "idmapped"),
        ("ext4", "chown"),
        # The strategy has no part in how each grows.
        ("xfs", "chown"),
        ("btrfs", "idmapped"),
        ("partitioned-ext4", "idmapped"),
        ("partitioned-xfs", "chown"),
    ],
    indirect=["strategy"],
)
def test_a_root_is_as_large_as_the_flavors_disk(
    start_nova: NovaFactory,
    busybox_image: ImageFactory,
    kind: str,
    strategy: str,
) -> None:
    """And stays so from start to start, and grows with another flavor."""
    require(kind.rpartition("-")[2])
    nova = start_nova(resizable(strategy))
    server = nova.boot(nova.add_image(busybox_image(kind)))
    assert 0.75 < gibibytes(server) <= 1
    server.reboot("HARD")
    assert 0.75 < gibibytes(server) <= 1
    server.resize(nova.flavor(2))
    server.confirm()
    assert 1.75 < gibibytes(server) <= 2
    assert is_private(server)
    # What is uploaded is the disk as it is.
    other = nova.boot(nova.add_image(server.disk), flavor=nova.flavor(3))
    assert 2.75 < gibibytes(other) <= 3
    nova.clean()
