# SPDX-License-Identifier: Apache-2.0
"""Security labels of libvirt."""

import pytest

from lxc_userns.domain import seclabel

MODEL = "<secmodel><model>{}</model><doi>0</doi></secmodel>"


@pytest.mark.parametrize(
    ("host", "models"),
    [
        ("", ()),
        (MODEL.format("none"), ()),
        ("<secmodel/>", ()),
        ("<secmodel><model/></secmodel>", ()),
        (MODEL.format("apparmor"), ("apparmor",)),
        (MODEL.format("selinux") + MODEL.format("dac"), ("selinux",)),
    ],
)
def test_security_models(host: str, models: tuple[str, ...]) -> None:
    text = f"<capabilities><host><cpu/>{host}</host></capabilities>"
    assert seclabel.parse_models(text) == models


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("", False),
        ("<seclabel type='dynamic' model='apparmor'/>", False),
        ("<seclabel type='dynamic' relabel='yes'/>", True),
        ("<seclabel relabel='yes'/>", True),
        (
            "<seclabel type='dynamic' relabel='yes'/>"
            "<seclabel type='dynamic' model='apparmor'/>",
            True,
        ),
        ("<seclabel type='none'/>", False),
        (
            "<seclabel type='dynamic'/>"
            "<seclabel type='none' model='selinux'/>",
            False,
        ),
    ],
)
def test_what_libvirt_leaves_of_a_label(labels: str, expected: bool) -> None:
    xml = f"<domain type='lxc'><os><type>exe</type></os>{labels}</domain>"
    assert seclabel.is_cleared(xml) == expected
