# SPDX-License-Identifier: Apache-2.0
"""Host names in a record: kept, and no matter to who does not know them."""

from dataclasses import replace

import pytest

from lxc_userns.exceptions import ArgumentError
from lxc_userns.instances.codec import decode, encode
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.spec.hostname import check_hostname, of_container
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.strategy import Strategy

UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
RECORD = InstanceRecord(
    name="web",
    uuid=UUID,
    rootfs="/srv",
    id_maps=None,
    strategy=Strategy.BIND,
    view="/run/v",
)


def test_a_record_keeps_it() -> None:
    named = replace(RECORD, hostname="web.example")
    assert decode("web", encode(named)) == named
    # As it was written before there were any.
    assert "hostname" not in encode(RECORD)
    assert decode("web", encode(RECORD)) == RECORD


@pytest.mark.parametrize("value", ["a b", 3, "x" * 65])
def test_a_damaged_record(value: object) -> None:
    with pytest.raises(ValueError, match=r"hostname|expected labels"):
        decode("web", {**encode(RECORD), "hostname": value})


def test_a_record_of_before_names_were_noted() -> None:
    """They were given right before it was ready."""
    for ready in (None, 7):
        record = replace(RECORD, ready=ready, named=ready is not None)
        data = encode(record)
        assert decode("web", data) == record
        del data["named"]
        assert decode("web", data) == record
    begun_again = replace(RECORD, named=True)
    assert decode("web", encode(begun_again)) == begun_again


@pytest.mark.parametrize("value", [None, 1, "true"])
def test_a_note_that_is_damaged(value: object) -> None:
    with pytest.raises(ValueError, match="named is no truth value"):
        decode("web", {**encode(RECORD), "named": value})


@pytest.mark.parametrize("text", ["a", "a-b.c1", "1", "x" * 63])
def test_host_names(text: str) -> None:
    assert check_hostname(text) == text
    request = InstanceRequest("web", UUID, "/srv", hostname=text)
    assert request.hostname == text


@pytest.mark.parametrize("text", ["", "-a", "a-", "a..b", "a\n", "a_b", "é"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ArgumentError, match="hostname"):
        InstanceRequest("web", UUID, "/srv", hostname=text)


def test_what_libvirt_makes_of_a_name() -> None:
    assert of_container("web-1.a_b") == "web-1ab"
    assert of_container("web-") == "web"
    assert of_container("..") is None
