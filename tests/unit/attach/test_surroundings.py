# SPDX-License-Identifier: Apache-2.0
"""Security labels that a command is executed with."""

import pytest

from lxc_userns.attach.surroundings import label_to_write


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("", ""),
        ("unconfined", ""),
        ("libvirt-6f0c (enforce)", "exec libvirt-6f0c"),
        ("a profile (complain)", "exec a profile"),
        ("system_u:system_r:svirt_lxc_net_t:s0:c1,c2",
         "system_u:system_r:svirt_lxc_net_t:s0:c1,c2"),
    ],
)  # fmt: skip
def test_label(label: str, written: str) -> None:
    assert label_to_write(label) == written
