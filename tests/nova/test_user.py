# SPDX-License-Identifier: Apache-2.0
"""Nova's compute service as a user who is not root."""

from pathlib import Path

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory, UserFactory
from tests.nova.user import ID

pytestmark = pytest.mark.stock


@pytest.mark.parametrize("helper", ["sudo", "rootwrap"])
def test_boot_and_delete(
    helper: str,
    make_user: UserFactory,
    start_nova: NovaFactory,
    busybox_image: ImageFactory,
) -> None:
    nova = start_nova(user=make_user(helper))
    status = Path(f"/proc/{nova.process.pid}/status").read_text()
    assert f"\nUid:\t{ID}\t{ID}\t" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    server.delete()
    nova.wait_for_no_leftovers()
