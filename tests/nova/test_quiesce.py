# SPDX-License-Identifier: Apache-2.0
"""Snapshots of one moment, and what becomes of those that come to no end."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from tests.nova.conftest import (
    ImageFactory,
    NovaFactory,
    cleaned,
    need_freezer,
)
from tests.nova.harness import Nova
from tests.nova.ours import is_private, resizable
from tests.nova.server import Server
from tests.waiting import wait_for

#: Runs in place of qemu-img, and copies nothing before it may.
COPY = """\
#!/bin/sh
if [ "$1" = convert ]; then
    touch {0}/begun
    while [ ! -e {0}/may-go-on ]; do sleep 0.1; done
    ! [ -e {0}/fails ] || exit 1
fi
exec {1} "$@"
"""
#: Writes the same number to two files, one after the other, for ever. By its
#: init, for what enters a container by its namespaces alone is not paused.
WRITER = """\
cat >/bin/writer <<END
#!/bin/sh
i=0; while :; do i=\\$((i+1)); echo \\$i >/root/a; echo \\$i >/root/b; done
END
chmod 755 /bin/writer
echo "::respawn:/bin/writer" >>/etc/inittab
"""
PATIENCE = 60.0
REQUIRED = {"os_require_quiesce": "yes"}


@dataclass
class Copies:
    """Copies of disks by a Nova, which wait to be let go on."""

    directory: Path

    def begin(self, server: Server) -> str:
        """Begin a snapshot; the image's ID, once the copy has begun."""
        image: str = server.action("createImage", {"name": "one"})["image_id"]
        wait_for((self.directory / "begun").exists, PATIENCE)
        return image

    def go_on(self) -> None:
        """Let them go on."""
        (self.directory / "may-go-on").touch()

    def fail(self) -> None:
        """Let them fail."""
        (self.directory / "fails").touch()
        self.go_on()


@pytest.fixture
def nova(start_nova: NovaFactory, strategy: str) -> Iterator[Nova]:
    """Start one with ID maps, and look that nothing is left."""
    yield from cleaned(start_nova(resizable(strategy)))


@pytest.fixture
def copies(nova: Nova, tmp_path: Path) -> Iterator[Copies]:
    """Let each copy of a disk wait."""
    program = tmp_path / "qemu-img"
    real = shutil.which("qemu-img")
    program.write_text(COPY.format(tmp_path, real))
    program.chmod(0o755)
    nova.run("tests.nova.injections:prefer_programs", str(tmp_path))
    copies = Copies(tmp_path)
    yield copies
    copies.go_on()


def boot(nova: Nova, busybox_image: ImageFactory, **properties: str) -> Server:
    """Boot one that writes without end."""
    image = nova.add_image(busybox_image("ext4"), properties=properties)
    server = nova.boot(image)
    server.run_in("sh", "-c", WRITER)
    server.reboot("HARD")
    assert goes_on(server)
    return server


def is_paused(server: Server) -> bool:
    state, _ = server.domain().state()
    return bool(state == libvirt.VIR_DOMAIN_PAUSED)


def marker(server: Server) -> Path:
    return server.directory / "paused-for-snapshot"


def leave_paused(server: Server) -> None:
    """Pause it as a service that was killed in a snapshot leaves it."""
    marker(server).touch()
    server.domain().suspend()
    assert is_paused(server)


def numbers(server: Server) -> tuple[str, str]:
    """Return what it has written to both."""
    one, two = (
        server.run_in("cat", f"/root/{name}", check=False).stdout
        for name in "ab"
    )
    return one, two


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """Mount a copy of a disk."""
    point = image.with_suffix(".mnt")
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
        point.rmdir()


def goes_on(server: Server) -> bool:
    """Return whether it runs, and its processes write again."""
    assert not is_paused(server)
    before = numbers(server)
    wait_for(lambda: numbers(server) != before, PATIENCE)
    return is_private(server)


def test_a_snapshot_of_one_moment(
    nova: Nova, copies: Copies, busybox_image: ImageFactory
) -> None:
    need_freezer()
    server = boot(nova, busybox_image, **REQUIRED)
    image = copies.begin(server)
    assert is_paused(server)
    before = numbers(server)
    time.sleep(1)
    assert numbers(server) == before
    copies.go_on()
    server.wait()
    assert goes_on(server)
    found = nova.image(image)
    assert found is not None
    assert found["status"] == "active"
    # What was written by then is in it, and nothing after.
    with mounted(nova.directory / "glance" / image) as root:
        assert (root / "root/a").read_text() == before[0]
        assert (root / "root/b").read_text() == before[1]
    assert nova.tracebacks() == []


def test_one_whose_image_asks_for_nothing(
    nova: Nova, copies: Copies, busybox_image: ImageFactory
) -> None:
    """The kernel mounts the copy as after a loss of power."""
    server = boot(nova, busybox_image)
    written = server.run_in("cat", "/bin/writer").stdout
    image = copies.begin(server)
    assert goes_on(server)
    copies.go_on()
    server.wait()
    assert goes_on(server)
    with mounted(nova.directory / "glance" / image) as root:
        assert (root / "bin/writer").read_text() == written
        assert {each.name for each in root.glob("root/?")} <= {"a", "b"}


def test_a_copy_that_fails(
    nova: Nova, copies: Copies, busybox_image: ImageFactory
) -> None:
    need_freezer()
    server = boot(nova, busybox_image, **REQUIRED)
    copies.begin(server)
    assert is_paused(server)
    copies.fail()
    server.wait()
    assert goes_on(server)


def test_one_that_is_deleted_meanwhile(
    nova: Nova, copies: Copies, busybox_image: ImageFactory
) -> None:
    """Processes that are paused can be ended, unlike those that wait."""
    need_freezer()
    server = boot(nova, busybox_image, **REQUIRED)
    copies.begin(server)
    assert is_paused(server)
    server.delete()
    copies.go_on()
    nova.wait_for_no_leftovers()


def test_a_service_that_ends_meanwhile(
    nova: Nova, copies: Copies, busybox_image: ImageFactory
) -> None:
    """The next one resumes it, also if the first was killed."""
    need_freezer()
    server = boot(nova, busybox_image, **REQUIRED)
    leave_paused(server)
    nova.stop_compute()
    nova.start_compute()
    assert goes_on(server)
    assert not marker(server).exists()


def test_one_that_libvirt_does_not_resume(
    nova: Nova, busybox_image: ImageFactory
) -> None:
    """It is no reason for a service not to start; the next one tries again."""
    need_freezer()
    server = boot(nova, busybox_image, **REQUIRED)
    leave_paused(server)
    nova.run("tests.nova.injections:recover_without_resume")
    assert is_paused(server)
    assert marker(server).exists()
    nova.stop_compute()
    nova.start_compute()
    assert goes_on(server)


def test_one_that_was_paused_before_stays_so(
    nova: Nova, copies: Copies, busybox_image: ImageFactory
) -> None:
    need_freezer()
    server = boot(nova, busybox_image, **REQUIRED)
    server.action("pause")
    server.wait("PAUSED")
    copies.begin(server)
    copies.go_on()
    server.wait("PAUSED")
    assert is_paused(server)
    nova.stop_compute()
    nova.start_compute()
    assert is_paused(server)


def test_a_host_that_cannot_pause(
    nova: Nova, busybox_image: ImageFactory
) -> None:
    server = boot(nova, busybox_image, **REQUIRED)
    said = nova.run(
        "tests.nova.injections:snapshot_without_freezer", server.id
    )
    assert said.startswith(f"{server.name}: its image has os_require_quiesce")
    assert goes_on(server)
