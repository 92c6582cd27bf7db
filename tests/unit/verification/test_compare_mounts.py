# SPDX-License-Identifier: Apache-2.0
"""Comparison of the mounts of a container with its views."""

from dataclasses import replace
from typing import Any

import pytest

from lxc_userns.verification import (
    View,
)
from lxc_userns.verification.compare_mounts import missing_mounts
from tests.unit.verification.observation import (
    HOST_MOUNTS,
    PRIVATE,
    VIEW,
    changed,
    evidence,
    find,
    find_later,
    mount,
)

SEEN = f"it sees {VIEW} without ID maps"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (mount("/x", "devtmpfs", device="0:5"), "the devices of the host"),
        (mount("/x", "devtmpfs", device="0:9"), "the devices of the host"),
        (mount("/x", "proc", device="0:10"), "the processes of the host"),
        (
            mount("/x", "proc", device="0:10", root="/sys"),
            "the processes of the host",
        ),
        (mount("/x", "sysfs", device="0:11"), "the network of the host"),
        (mount("/x", "debugfs", device="0:90"), "insides of the host"),
        (mount("/x", options="rw,nodev", root="/srv/web1"), SEEN),
        (mount("/x", options="rw,nodev", root="/srv/web1/etc"), SEEN),
        (mount("/x", root="/srv/web1"), f"{SEEN}, nodev"),
        (
            mount("/x", root="/srv/web10"),
            "it has /srv/web10 of a filesystem of the host (ext4)",
        ),
        (
            mount("/x", root="/srv", options="rw,idmapped,nodev"),
            "it has /srv of a filesystem of the host (ext4)",
        ),
        (
            mount("/x", device="8:0", root="/root"),
            "it has /root of a filesystem of the host (ext4)",
        ),
        (
            mount("/x", "cgroup", device="0:20"),
            "it has / of a filesystem of the host (cgroup)",
        ),
        (
            mount("/x", options="rw,idmapped", root="/srv/web1/etc"),
            f"it sees {VIEW} without nodev",
        ),
    ],
)
@pytest.mark.parametrize("look", [find, find_later])
def test_what_should_not_be_mounted(
    look: Any, extra: Any, reason: str
) -> None:
    found = evidence()
    found = replace(found, mounts=(*found.mounts, extra))
    (said,) = look(found)
    assert said.startswith("at /x it ")
    assert said.endswith(reason)


@pytest.mark.parametrize(
    "extra",
    [
        mount("/x", "proc", device="0:60"),
        mount("/x", "sysfs", device="0:61"),
        mount("/x", "tmpfs", device="0:62"),
        mount("/x", "overlay", device="0:63"),
        mount("/x", options="rw,nodev,idmapped", root="/srv/web1/etc"),
        mount("/sys/fs/cgroup/x", "cgroup", device="0:20", root="/a"),
    ],
)
def test_what_may_be_mounted(extra: Any) -> None:
    found = evidence()
    assert find(replace(found, mounts=(*found.mounts, extra))) == []


def test_views() -> None:
    found = evidence()
    # Not on the host, so that it could not reboot.
    assert f"{VIEW}, its /, is not mounted on the host" in find(
        replace(found, host_mounts=HOST_MOUNTS)
    )
    plain = evidence(options="rw,nodev")
    assert find(plain) == [f"{VIEW} is not idmapped", f"at / {SEEN}"]
    overlay = replace(PRIVATE, views=(View("/", VIEW, "overlay"),))
    assert find(found, overlay) == [f"{VIEW} is no overlay"]
    lax = evidence(options="rw,idmapped")
    assert find(lax) == [
        f"{VIEW} is not nodev",
        f"at / it sees {VIEW} without nodev",
    ]


def test_the_root_filesystem() -> None:
    found = evidence()
    others = mount("/", options="rw,nodev,idmapped", root="/srv/web2")
    swapped = (others, *found.mounts[1:])
    said = find(replace(found, mounts=swapped, root=others))
    assert f"its / is not {VIEW}" in said
    hosts = (HOST_MOUNTS[0], *found.mounts[1:])
    found = replace(found, mounts=hosts, root=HOST_MOUNTS[0])
    assert "its root filesystem is the host's" in find(found)
    # Whatever a domain of others says, or does not say.
    nothing = replace(PRIVATE, views=())
    assert "its root filesystem is the host's" in find(found, nothing)
    assert find_later(found, nothing) == [
        "at / it has / of a filesystem of the host (ext4)"
    ]


def test_what_it_does_to_its_own_mounts_later() -> None:
    found = evidence()
    memory = mount("/", "tmpfs", device="0:70")
    covered = replace(found, mounts=(*found.mounts, memory))
    assert find(covered) == []  # Its root is below that.
    turned = replace(covered, root=memory)
    assert find(turned) == [f"its / is not {VIEW}"]
    assert find_later(turned) == []
    assert find_later(replace(found, root=None)) == []


def volume(point: str, options: str, root: str = "/srv/data") -> Any:
    return mount(point, options=options, root=root)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (volume("/data", "ro,nosuid,nodev,idmapped"), []),
        (
            volume("/data", "rw,nosuid,nodev,idmapped"),
            ["at /data it sees /run/v without ro"],
        ),
        (
            volume("/data", "ro,nosuid,nodev"),
            ["at /data it sees /run/v without ID maps"],
        ),
        (
            volume("/data", "ro,idmapped"),
            ["at /data it sees /run/v without nodev, nosuid"],
        ),
        (
            volume("/other", "ro,nosuid,nodev,idmapped"),
            ["its /data is not /run/v"],
        ),
        (
            volume("/data", "ro,nosuid,nodev,idmapped", "/srv/data/below"),
            ["its /data is not /run/v"],
        ),
        (
            volume("/data", "ro,nosuid,nodev,idmapped", "/srv/more"),
            [
                "at /data it has /srv/more of a filesystem of the host (ext4)",
                "its /data is not /run/v",
            ],
        ),
    ],
)
def test_volumes(inside: Any, said: list[str]) -> None:
    flags = frozenset({"ro", "nosuid", "nodev"})
    promise = replace(
        PRIVATE,
        views=(*PRIVATE.views, View("/data", "/run/v", "idmapped", flags)),
    )
    found = evidence()
    found = replace(
        found,
        host_mounts=(
            *found.host_mounts,
            volume("/run/v", "ro,nosuid,nodev,idmapped"),
        ),
        mounts=(*found.mounts, inside),
    )
    assert find(found, promise) == said


def test_a_source_that_is_no_mount_point() -> None:
    """The XML of others can have it."""
    promise = replace(PRIVATE, views=(View("/", "/srv/web1"),))
    inside = mount("/", device="8:0", root="/srv/web1")
    found = evidence()
    found = replace(found, mounts=(inside, *found.mounts[1:]), root=inside)
    assert find(found, promise) == []
    other = replace(promise, views=(View("/", "/srv/web2"),))
    assert "its / is not /srv/web2" in find(found, other)


def test_a_volume_that_is_plain_by_promise() -> None:
    inside = volume("/run/x/web1/volume0", "rw,nodev", "/srv/web1/data")
    found = evidence()
    found = replace(
        found,
        host_mounts=(*found.host_mounts, inside),
        mounts=(
            *found.mounts,
            replace(inside, point="/data"),
            # What it has it can mount again.
            volume("/again", "rw,nodev", "/srv/web1/data/below"),
        ),
    )
    assert find(found) == [f"at /data {SEEN}", f"at /again {SEEN}"]
    views = (*PRIVATE.views, View("/data", inside.point, "plain"))
    assert find(found, replace(PRIVATE, views=views)) == []


def test_a_volume_in_the_tree_of_another_view() -> None:
    """The nearer promise counts."""
    inside = volume("/run/v", "ro,nodev,idmapped", "/srv/web1/data")
    lax = volume("/data", "rw,nodev,idmapped", "/srv/web1/data")
    views = (
        *PRIVATE.views,
        View("/data", "/run/v", "idmapped", frozenset({"ro"})),
    )
    promise = replace(PRIVATE, views=views)
    found = evidence()
    found = replace(found, host_mounts=(*found.host_mounts, inside))
    assert (
        find(
            replace(
                found, mounts=(*found.mounts, replace(inside, point="/data"))
            ),
            promise,
        )
        == []
    )
    assert find(replace(found, mounts=(*found.mounts, lax)), promise) == [
        "at /data it sees /run/v without ro"
    ]


def test_view_of_what_the_host_does_not_have_is_not_looked_for() -> None:
    found = changed(evidence(), host_mounts=())
    assert [*missing_mounts(PRIVATE, found)] == []
