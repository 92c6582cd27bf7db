# SPDX-License-Identifier: Apache-2.0
"""Operations that containers have not: refused, with nothing touched."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory
from tests.nova.harness import Nova, RefusedError, Settings, wait_until
from tests.nova.ours import DRIVER, LEASES, is_private, resizable
from tests.nova.release import RELEASE
from tests.nova.server import Server

VOLUME = "a07f71dc-8151-4e7d-a0cc-cd24a3f11113"
PAGE = Path(__file__).parents[2] / "doc/source/nova/index.rst"
WAY_OVER = (
    "qemu-img convert -f qcow2 -O raw disk disk.raw",
    "chown --reference=disk disk.raw && mv disk.raw disk",
    "sed -i 's/qcow2/raw/' disk.info",
)


@pytest.fixture(scope="module")
def shared_nova(start_shared_nova: NovaFactory, strategy: str) -> Nova:
    """Start one that resizes where a server is."""
    return start_shared_nova(resizable(strategy))


@pytest.fixture
def nova(shared_nova: Nova) -> Iterator[Nova]:
    """Give it without servers, and look that nothing is left."""
    yield shared_nova
    shared_nova.clean()


@pytest.fixture
def server(nova: Nova, busybox_image: ImageFactory) -> Server:
    return nova.boot(nova.add_image(busybox_image("ext4")))


def ask(nova: Nova, method: str, path: str, body: object) -> str:
    """Send a request that is refused; the text."""
    answer = nova.ask("api", method, path, body)
    assert answer["status"] in (400, 403, 409), answer
    return json.dumps(answer["body"])


@pytest.mark.parametrize(
    "settings",
    [
        {
            "DEFAULT": {"use_cow_images": None},
            "libvirt": {"images_type": None},
        },
        {"libvirt": {"images_type": "qcow2"}},
        {"libvirt": {"images_type": "rbd"}},
    ],
    ids=["defaults", "qcow2", "rbd"],
)
def test_disks_that_no_kernel_mounts(
    start_nova: NovaFactory, settings: Settings
) -> None:
    nova = start_nova(DRIVER, start_compute=False)
    nova.configure(settings)
    with pytest.raises(RefusedError) as caught:
        nova.start_compute()
    assert (
        "not mount; set [libvirt] images_type = raw and [DEFAULT] "
        "use_cow_images = False"
    ) in caught.value.text
    assert caught.value.text.count("not mount") == 1


def test_a_disk_that_is_qcow2_already(nova: Nova, server: Server) -> None:
    """The way over that the documentation has."""
    server.run_in("sh", "-c", "echo kept >/root/note; sync")
    server.stop()
    before = server.disk.rename(server.disk.with_name("before"))
    argv = [
        "qemu-img",
        "convert",
        "-O",
        "qcow2",
        str(before),
        str(server.disk),
    ]
    subprocess.run(argv, check=True)
    info = server.disk.with_name("disk.info")
    info.write_text(json.dumps({str(server.disk): "qcow2"}))
    server.action("os-start")
    assert "is a qcow2 image, and no raw" in server.what_failed("start")
    for line in WAY_OVER:
        assert f"    {line}\n" in PAGE.read_text()
        argv = ["sh", "-c", line]
        subprocess.run(argv, cwd=server.directory, check=True)
    server.reboot("HARD")
    assert is_private(server)
    assert server.run_in("cat", "/root/note").stdout == "kept\n"


@pytest.mark.parametrize(
    "specs",
    [{"lxc_userns__range_size": "131072"}, {"lxc_userns__mode": "host"}],
    ids=["range", "mode"],
)
def test_a_flavor_that_asks_for_other_ids(
    nova: Nova, server: Server, specs: dict[str, str]
) -> None:
    pid = server.init_pid()
    flavor = nova.flavor(**specs)
    server.action("resize", {"flavorRef": flavor})
    assert "which it keeps" in server.what_failed("resize")
    assert server.wait("ACTIVE").init_pid() == pid


def test_extra_specs_are_validated(nova: Nova) -> None:
    nova.flavor()
    path = "/flavors/test-1/os-extra_specs"
    for name, value, said in (
        ("mode", "hots", "is not one of: private, host"),
        ("range_size", "many", "many"),
        ("range_size", "0", "0"),
        ("mdoe", "host", "does not appear to be a valid extra spec"),
    ):
        body = {"extra_specs": {f"lxc_userns:{name}": value}}
        assert said in ask(nova, "POST", path, body)


def test_suspend(nova: Nova, server: Server) -> None:
    pid = server.init_pid()
    server.action("suspend")
    assert "suspends no containers" in server.what_failed("suspend")
    assert server.wait("ACTIVE").init_pid() == pid


def test_rescue(nova: Nova, server: Server) -> None:
    """Nova has no other status for a driver that refuses than ERROR."""
    pid = server.init_pid()
    server.action("rescue")
    server.wait("ERROR")
    assert "has no rescue disk, and runs on as it was" in server.fault
    assert server.init_pid() == pid
    server.action("os-resetState", {"state": "active"})
    assert server.wait("ACTIVE").init_pid() == pid


def test_a_volume_for_a_running_instance(nova: Nova, server: Server) -> None:
    body = {"volumeAttachment": {"volumeId": VOLUME}}
    path = f"/servers/{server.id}/os-volume_attachments"
    said = "a container has no volume but the one it boots from"
    if RELEASE < 33:
        assert said in ask(nova, "POST", path, body)
    else:
        # The answer comes before the volume is attached.
        nova.api("POST", path, body)
        wait_until(lambda: said in str(nova.history()), nova.log)
    assert nova.api("GET", path) == {"volumeAttachments": []}
    assert is_private(server)


def test_an_interface_for_a_running_instance(
    nova: Nova, server: Server
) -> None:
    path = f"/servers/{server.id}/os-interface"
    text = ask(nova, "POST", path, {"interfaceAttachment": {}})
    assert "Attaching interfaces is not supported" in text
    assert is_private(server)


def test_a_port_of_type_tap(nova: Nova, busybox_image: ImageFactory) -> None:
    """Nova's device and that of libvirt had one name."""
    port = nova.run("tests.nova.injections:make_tap_port")
    image = nova.add_image(busybox_image("ext4"))
    server = nova.boot(image, networks=[{"port": port}])
    for _ in range(2):
        assert is_private(server)
        assert "eth0" in server.run_in("cat", "/proc/net/dev").stdout
        server.reboot("HARD")
    pid = server.init_pid()
    path = f"/servers/{server.id}/os-interface/{port}"
    nova.api("DELETE", path)
    assert "detach" in server.what_failed("detach_interface")
    assert server.init_pid() == pid


@pytest.mark.usefixtures("pool")
def test_no_warning_of_no_namespaces(start_nova: NovaFactory) -> None:
    nova = start_nova(LEASES)
    assert "without user namespaces" not in str(nova.history())
