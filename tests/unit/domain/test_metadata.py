# SPDX-License-Identifier: Apache-2.0
"""The marker that we leave in the metadata of a domain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lxc_userns.domain import (
    Marker,
    apply,
    read_marker,
)
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.spec.volume import Volume
from tests.unit.domain.changes import BARE, bare
from tests.unit.domain.samples import (
    DOCUMENTS,
)

MARKER = Marker(
    rootfs="/srv/a%b\n\udcff é<&",
    rootfs_kind="image",
    strategy="overlay",
    volumes=(Volume("/srv/a:b", "/c", "none", readonly=True),),
    mode="private",
    mode_reasons=("one", "two; three"),
)


def test_marker() -> None:
    edited = apply(bare(), replace(BARE, marker=MARKER))
    assert read_marker(edited) == MARKER
    assert "<x:own a='1&gt;0' b=\"it's\"><os/><idmap/></x:own>" in edited


@pytest.mark.parametrize(
    "old",
    [
        "<o:container strategy='chown'><o:rootfs>/x</o:rootfs></o:container>",
        "<o:instance/>",
        "<o:container/><o:more/>",
        "<o:container><o:rootfs>/x</o:rootfs></o:container>",
        "<o:container strategy='a'><o:rootfs>/x</o:rootfs>"
        "<o:volume>x</o:volume></o:container>",
    ],
)
def test_other_marker_is_replaced(old: str) -> None:
    text = bare("xmlns:x=", 'xmlns:o="urn:lxc-userns:domain:1.0" xmlns:x=')
    edited = apply(text.replace("<metadata>", f"<metadata>{old}"), BARE)
    assert read_marker(edited) == BARE.marker
    assert "<o:" not in edited


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ("<o:other/>", "not a marker"),
        ("<o:container/>", "not a marker"),
        ("<o:container><o:rootfs/></o:container>", "has no strategy"),
        (
            "<o:container strategy='a'><o:rootfs><b/></o:rootfs>"
            "</o:container>",
            "expected text alone",
        ),
        (
            "<o:container strategy='a'><o:rootfs/><o:volume>x</o:volume>"
            "</o:container>",
            "metadata: volume 'x'",
        ),
    ],
)
def test_bad_marker(marker: str, reason: str) -> None:
    text = bare("xmlns:x=", 'xmlns:o="urn:lxc-userns:domain:1.0" xmlns:x=')
    with pytest.raises(DomainXmlError, match=reason):
        read_marker(text.replace("<metadata>", f"<metadata>{marker}"))


def test_no_marker() -> None:
    assert read_marker(DOCUMENTS["bare"]) is None
