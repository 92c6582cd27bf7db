# SPDX-License-Identifier: Apache-2.0
"""What runs against what was promised."""

from dataclasses import dataclass
from typing import cast

import pytest

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.linux.process import Process, Rows
from lxc_userns.verification import mismatches

UID = IdMap.parse("0:100000:1000,1000:300000:1")
GID = IdMap.parse("0:200000:65536")


@dataclass
class FakeProcess:
    """As of a container in its own user namespace."""

    uid_map: Rows = ((0, 100000, 1000), (1000, 300000, 1))
    gid_map: Rows = ((0, 200000, 65536),)
    user_namespace: tuple[int, int] = (4, 1)


def find(fake: FakeProcess, id_maps: IdMaps | None) -> list[str]:
    return list(mismatches(id_maps, cast(Process, fake)))


def test_as_promised_in_any_order() -> None:
    assert find(FakeProcess(), IdMaps(UID, GID)) == []
    swapped = ((1000, 300000, 1), (0, 100000, 1000))
    assert find(FakeProcess(uid_map=swapped), IdMaps(UID, GID)) == []


def test_nothing_promised() -> None:
    assert find(FakeProcess(uid_map=((0, 0, 4294967295),)), None) == []


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ((), "empty"),
        (((0, 0, 4294967295),), "0:0:4294967295"),
        (((0, 100000, 1000),), "0:100000:1000"),
        (((0, 100000, 1000), (1000, 300000, 2)),
         "0:100000:1000,1000:300000:2"),
        (((0, 100000, 1000), (1000, 300000, 1), (2000, 5, 1)),
         "0:100000:1000,1000:300000:1,2000:5:1"),
    ],
)  # fmt: skip
def test_other_maps(rows: Rows, shown: str) -> None:
    (reason,) = find(FakeProcess(uid_map=rows), IdMaps(UID, GID))
    assert reason == f"its uid_map is {shown}, promised was {UID}"


def test_maps_of_the_other_kind() -> None:
    fake = FakeProcess(gid_map=FakeProcess().uid_map)
    (reason,) = find(fake, IdMaps(UID, GID))
    assert reason.startswith("its gid_map is 0:100000:1000,")


def test_the_namespace_of_the_host() -> None:
    with Process("self") as this:
        fake = FakeProcess(user_namespace=this.user_namespace)
    assert find(fake, IdMaps(UID, GID)) == [
        "it runs in the host's user namespace"
    ]
