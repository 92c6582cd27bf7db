# SPDX-License-Identifier: Apache-2.0
"""The harness that the other tests rest upon."""

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory
from tests.nova.harness import RefusedError


def test_compute_service_refuses_to_start(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    nova = start_nova(
        {"DEFAULT": {"force_raw_images": False},
         "libvirt": {"images_type": "rbd"}},
        start_compute=False,
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(RefusedError, match="force_raw_images") as refused:
            nova.start_compute()
        assert refused.value.kind == "InvalidConfiguration"
    nova.configure(
        {"DEFAULT": {"force_raw_images": True},
         "libvirt": {"images_type": "raw"}}
    )  # fmt: skip
    nova.start_compute()
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    # It goes on while there is no compute service, and is known afterwards.
    nova.stop_compute()
    pid = server.init_pid()
    nova.start_compute()
    assert server.wait("ACTIVE").init_pid() == pid
    nova.clean()


def test_whatever_is_left_is_removed(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    nova = start_nova()
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    found = nova.leftovers()
    assert found.domains == (server.domain().name(),)
    assert [each.split()[1] for each in found.loops] == [str(server.disk)]
    assert f"{server.init_pid()} init" in found.processes
    assert found.directories == (server.id,)
    found.remove(nova.connection)
    found = nova.leftovers()
    assert not found.domains + found.loops + found.processes + found.mounts
