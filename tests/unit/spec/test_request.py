# SPDX-License-Identifier: Apache-2.0
"""Requests, and their requirements by the name of before."""

from collections.abc import Callable
from typing import Any

import pytest

import lxc_userns
from lxc_userns.exceptions import ArgumentError, LxcUsernsError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import Requirements
from lxc_userns.spec.volume import Volume
from tests.unit.id_map_strategies import TOO_LONG

UUID = "7c1f7a5e-3b52-4a55-9f1d-0c6a2f6f3b10"


@pytest.mark.parametrize("name", ["strategy", "security_model"])
def test_word_that_is_none_of_its_kind_is_refused(name: str) -> None:
    options: dict[str, Any] = {name: "other"}
    with pytest.raises((LxcUsernsError, ValueError), match=f"{name}.*other"):
        InstanceRequest("web", UUID, "/srv/web", **options)


MAPS = IdMaps(IdMap.parse("0:100000:65536"), IdMap.parse("0:100000:65536"))
# Python writes no number of more than 4300 digits.
LONG = 10**5000
NUMBERS = {
    "range_size": ("6..4294967294", (-1, 0, 5, 2**32 - 1, 2**70, LONG, -LONG)),
    "max_processes": ("0..4194304", (-1, 2**22 + 1, 2**64, 2**70, LONG)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_number_out_of_range(name: str) -> None:
    expected, numbers = NUMBERS[name]
    for number in numbers:
        with pytest.raises(ArgumentError) as caught:
            InstanceRequest("web", UUID, "/srv/web", **{name: number})  # type: ignore[arg-type]
        text = str(caught.value)
        assert text.startswith(f"InstanceRequest web: {name} ")
        assert text.endswith(f": expected {expected}")
        assert len(text) < 200
    least, most = map(int, expected.split(".."))
    for number in (least, most):
        InstanceRequest("web", UUID, "/srv/web", **{name: number})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["name", "range_size", "grow", "volumes"])
def test_number_of_too_many_digits_as_something_else(name: str) -> None:
    values: dict[str, Any] = {"name": "web", "uuid": UUID, "rootfs": "/srv"}
    # Of whom, as far as that can be said.
    of = "" if name == "name" else " web"
    with pytest.raises(ArgumentError, match=f"^InstanceRequest{of}: {name} "):
        InstanceRequest(**{**values, name: [LONG]})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Volume(LONG, "/data"),  # type: ignore[arg-type]
        lambda: Volume("/srv", "/data", readonly=LONG),  # type: ignore[arg-type]
        lambda: Requirements(LONG),  # type: ignore[arg-type]
        lambda: Requirements(devices=LONG),  # type: ignore[arg-type]
        lambda: Requirements(devices=[LONG]),  # type: ignore[arg-type]
    ],
)
def test_number_of_too_many_digits_in_parts(
    make: Callable[[], object],
) -> None:
    with pytest.raises(LxcUsernsError, match=TOO_LONG):
        make()


TWICE = (Volume("/srv/a", "/data"), Volume("/srv/b", "/data"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rootfs": "/srv/\0web"}, "rootfs .*: is not a path"),
        ({"rootfs": "/srv/\ud800"}, "rootfs .*: is not a path"),
        ({"program": "bin/init"}, "program 'bin/init': is no absolute path"),
        ({"program": "/bin/\ud800"}, "program .*: is no absolute path"),
        ({"program": "/bin/\0"}, "program .*: is no absolute path"),
        (
            {"range_size": 65536, "id_maps": MAPS},
            "range_size 65536: is for a lease, and id_maps need none",
        ),
        (
            {"needs": Requirements("host"), "id_maps": MAPS},
            "id_maps .*: contradicts needs, of mode host",
        ),
        (
            {"needs": Requirements("host"), "range_size": 65536},
            "range_size 65536: contradicts needs, of mode host",
        ),
        ({"volumes": TWICE}, "volumes '/data': is the target of two"),
    ],
)
def test_request_that_contradicts_itself(
    options: dict[str, Any], reason: str
) -> None:
    given = {"name": "web", "uuid": UUID, "rootfs": "/srv/web", **options}
    with pytest.raises(
        ArgumentError, match=f"^InstanceRequest web: {reason}"
    ) as caught:
        InstanceRequest(**given)
    assert caught.value.name.startswith("InstanceRequest web: ")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("web\nweb2: is gone", r"'web\nweb2: is gone'"),
        ("", "''"),
        ("x" * 5000, f"{'x' * 40}... (5000 characters)"),
    ],
)
def test_request_of_an_odd_name(name: str, shown: str) -> None:
    """The error stays one line, and short."""
    with pytest.raises(ArgumentError) as caught:
        InstanceRequest(name, UUID, "/srv/web", hostname="a b")
    text = str(caught.value)
    assert text.startswith(f"InstanceRequest {shown}: hostname 'a b': ")


def test_requirements_by_their_old_name_warn() -> None:
    with pytest.warns(DeprecationWarning, match="use Requirements"):
        found = lxc_userns.Needs("host", ("ipc",), ("sys_time",), ("/dev/x",))
    assert found == Requirements("host", ("ipc",), ("sys_time",), ("/dev/x",))
