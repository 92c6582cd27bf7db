# SPDX-License-Identifier: Apache-2.0
"""Status files of libvirt, as text."""

import pytest

from lxc_userns.libvirtd.status import RunningDomain, parse_uuid

UUID = "a8609df0-e759-4761-9d7b-c1757d9acc2b"
OTHER = "11111111-2222-3333-4444-555555555555"
STATUS = f"""<!--
WARNING: THIS IS AN AUTO-GENERATED FILE. To change it use:
  virsh edit vm
-->

<domstatus state='running' reason='booted' pid='62'>
  <init pid='63'/>
  <domain type='lxc' id='62'>
    <name>vm</name>
    <uuid>{UUID}</uuid>
    <description>&lt;uuid&gt;{OTHER}&lt;/uuid&gt; pid='7'</description>
    <metadata><uuid>{OTHER}</uuid></metadata>
  </domain>
</domstatus>
"""


def test_uuid() -> None:
    assert parse_uuid(STATUS, 62) == UUID


def test_another_start() -> None:
    """Left over from a start that libvirt lost the end of."""
    assert parse_uuid(STATUS, 63) is None
    assert parse_uuid(STATUS, 6) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        STATUS[: STATUS.index("<uuid>")],
        STATUS.replace("<domstatus", "<domain"),
        STATUS.replace(UUID, "none"),
    ],
)
def test_half_written(text: str) -> None:
    assert parse_uuid(text, 62) is None


def test_one_that_starts_may_be_any() -> None:
    assert RunningDomain("vm", 62, None).may_be(UUID)
    assert RunningDomain("vm", 62, UUID).may_be(UUID)
    assert not RunningDomain("vm", 62, OTHER).may_be(UUID)
