# SPDX-License-Identifier: Apache-2.0
"""What crosses to the process that is root, and back."""

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from lxc_userns import privileged
from lxc_userns.exceptions import ConfigError, NeedsError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances import InstanceRecord
from lxc_userns.needs import Needs
from lxc_userns.nova import extra_specs
from lxc_userns.request import InstanceRequest, PreparedInstance

UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
MAPS = IdMaps(
    IdMap.parse("0:100000:10,10:200000:65526"), IdMap.parse("0:300000:65536")
)
RECORD = InstanceRecord(
    "web1", UUID, "/srv/web1", MAPS, "idmapped", "/run/x/web1/root"
)


def across(value: Any) -> Any:
    """The same after the journey that oslo.privsep sends it on."""
    return msgpack.unpackb(msgpack.packb(value, use_bin_type=True), raw=False)


def test_what_comes_back() -> None:
    found = privileged._plain(PreparedInstance(RECORD))
    assert across(found) == found
    assert found == {
        "mode": "private",
        "mode_reasons": [],
        "uid_maps": [[0, 100000, 10], [10, 200000, 65526]],
        "gid_maps": [[0, 300000, 65536]],
        "root": "/run/x/web1/root",
        "needs_private_network": True,
        "dropped_capabilities": ["sys_resource"],
    }


def test_without_a_user_namespace() -> None:
    record = replace(
        RECORD, id_maps=None, strategy="plain", mode_reasons=("so",)
    )
    found = privileged._plain(PreparedInstance(record))
    assert (found["mode"], found["mode_reasons"]) == ("host", ["so"])
    assert (found["uid_maps"], found["gid_maps"]) == ([], [])
    assert found["dropped_capabilities"] == []


def test_a_request() -> None:
    specs = {
        "lxc_userns:mode": "private",
        "lxc_userns:range_size": "131072",
        "hw:cpu_policy": "shared",
    }
    request = {
        "name": "web1",
        "uuid": UUID,
        "rootfs": "/srv/web1/disk",
        **extra_specs.to_request(specs),
    }
    assert privileged._request(across(request)) == InstanceRequest(
        "web1",
        UUID,
        "/srv/web1/disk",
        needs=Needs("private"),
        range_size=131072,
    )
    plain = {"name": "web1", "uuid": UUID, "rootfs": "/srv/web1/disk"}
    assert privileged._request(
        {**plain, **extra_specs.to_request({})}
    ) == InstanceRequest("web1", UUID, "/srv/web1/disk")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("lxc_userns:mode", "", "is not private or host"),
        ("lxc_userns:mode", "Host", "is not private or host"),
        ("lxc_userns:range_size", "many", "is not a number"),
        ("lxc_userns:range_size", "-1", "is not a number"),
        ("lxc_userns:range_size", "\N{SUPERSCRIPT TWO}", "is not a number"),
    ],
)
def test_extra_specs_that_are_refused(
    name: str, value: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        extra_specs.to_request({name: value})
    assert str(caught.value).startswith(name)
    assert reason in str(caught.value)


def test_needs_that_are_none() -> None:
    with pytest.raises(NeedsError):
        privileged._request({"needs": {"mode": "x"}})
