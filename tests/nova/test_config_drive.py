# SPDX-License-Identifier: Apache-2.0
"""Config drives."""

import base64
import json
from collections.abc import Iterator

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory, UserFactory, cleaned
from tests.nova.harness import Nova
from tests.nova.ours import DRIVER, is_private, resizable
from tests.nova.server import Server

SCRIPT = "#!/bin/sh\n"


@pytest.fixture
def nova(start_nova: NovaFactory, strategy: str) -> Iterator[Nova]:
    """Start one with ID maps, and look that nothing is left."""
    yield from cleaned(start_nova(resizable(strategy)))


def boot(nova: Nova, image: str) -> Server:
    """Boot a server that is told something."""
    return nova.boot(
        image,
        config_drive=True,
        user_data=base64.b64encode(SCRIPT.encode()).decode(),
        metadata={"role": "web"},
    )


def is_told(server: Server) -> bool:
    """Whether its root has its config drive, and nothing more of the host."""
    directory = "/config-drive/openstack/latest"
    told = json.loads(
        server.run_in("cat", f"{directory}/meta_data.json").stdout
    )
    assert told["uuid"] == server.id
    assert told["meta"] == {"role": "web"}
    assert server.run_in("cat", f"{directory}/user_data").stdout == SCRIPT
    for path in ("/config-drive/new", f"{directory}/user_data"):
        done = server.run_in("touch", path, check=False)
        assert "Read-only file system" in done.stderr
    # Its password is in there.
    command = f"cat {directory}/meta_data.json"
    done = server.run_in("su", "alice", "-c", command, check=False)
    assert "Permission denied" in done.stderr
    line = server.run_in("grep", " /config-drive ", "/proc/mounts").stdout
    assert {"ro", "nosuid", "nodev"} <= {*line.split()[3].split(",")}
    return is_private(server)


def test_a_config_drive(nova: Nova, busybox_image: ImageFactory) -> None:
    image = nova.add_image(busybox_image("ext4"))
    server = boot(nova, image)
    assert is_told(server)
    hidden = server.directory / "config-drive"
    assert hidden.stat().st_mode & 0o777 == 0o700
    server.stop()
    server.start()
    assert is_told(server)
    server.reboot("HARD")
    assert is_told(server)
    server.action("rebuild", {"imageRef": image})
    server.wait()
    assert is_told(server)
    assert not (server.directory / "disk.config").exists()
    server.delete()
    assert not hidden.exists()
    other = nova.boot(image)
    assert other.run_in("ls", "/config-drive", check=False).returncode
    assert nova.tracebacks() == []


def test_a_config_drive_of_a_service_that_is_not_root(
    make_user: UserFactory,
    start_nova: NovaFactory,
    busybox_image: ImageFactory,
) -> None:
    nova = start_nova(DRIVER, user=make_user("sudo"))
    server = boot(nova, nova.add_image(busybox_image("ext4")))
    assert is_told(server)
    server.delete()
    nova.wait_for_no_leftovers()
