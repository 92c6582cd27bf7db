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
