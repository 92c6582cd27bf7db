# SPDX-License-Identifier: Apache-2.0
"""A real Nova with our driver: each instance in a user namespace."""

import importlib.metadata
import json
import os
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from lxc_userns.config import allowed_paths
from lxc_userns.config import names as config_names
from lxc_userns.config.options import GROUP, OPTS
from lxc_userns.linux import cgroups
from tests.nova.conftest import ImageFactory, NovaFactory, UserFactory, cleaned
from tests.nova.harness import Nova, RefusedError, Settings
from tests.nova.ours import (
    BASE,
    DRIVER,
    LEASES,
    OTHER,
    OURS,
    changed,
    is_private,
    maps,
    mode_of,
    resizable,
)
from tests.nova.server import Server
from tests.nova.user import BIN, ID


@pytest.fixture(scope="module")
def shared_nova(start_shared_nova: NovaFactory, strategy: str) -> Nova:
    """Start one with ID maps."""
    return start_shared_nova(resizable(strategy))


@pytest.fixture
def nova(shared_nova: Nova) -> Iterator[Nova]:
    """Give it without servers, and look that nothing is left."""
    yield from cleaned(shared_nova)


def has_hung_up(server: Server) -> bool:
    """Whether libvirt has, on the container as it started it.

    libvirt 9.0 does so now and then, and then is not there to start it again
    when it reboots itself.
    """
    name = server.domain().name()
    log = Path(f"/var/log/libvirt/lxc/{name}.log").read_text(errors="replace")
    return "End of file while reading data" in log.rpartition("starting up")[2]


def live(server: Server) -> None:
    """Take it through all that can happen to it."""
    assert is_private(server)
    assert "<privnet/>" in server.xml()
    server.run_in(
        "sh",
        "-c",
        "echo kept >/home/alice/note;"
        "chown alice /home/alice/note; chmod 2750 /home/alice/note",
    )
    for _ in range(5):
        if not has_hung_up(server):
            break
        server.reboot("HARD")
    first = server.init_pid()
    assert server.reboot_inside() != first
    assert is_private(server)
    server.stop()
    server.start()
    assert is_private(server)
    server.reboot("HARD")
    server.reboot("SOFT")
    assert is_private(server)
    assert mode_of(server, "/home/alice/note") == "2750 1000"


@pytest.mark.parametrize("kind", ["ext4", "ext3", "partitioned"])
def test_the_life_of_a_server(
    nova: Nova, busybox_image: ImageFactory, kind: str
) -> None:
    server = nova.boot(nova.add_image(busybox_image(kind)))
    live(server)
    server.delete()
    nova.wait_for_no_leftovers()
    # No loop device that is somebody else's by now was detached.
    assert nova.tracebacks() == []


def test_pause(nova: Nova, busybox_image: ImageFactory) -> None:
    """libvirt can with the freezer of version 1 alone."""
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    if cgroups.can_freeze():
        server.action("pause")
        server.wait("PAUSED")
        server.action("unpause")
        server.wait()
        assert is_private(server)
    name = server.domain().name()
    error = nova.run("tests.nova.injections:pause_without_freezer", name)
    assert error.startswith(f"{name}: cannot be paused: libvirt pauses cont")
    assert is_private(server)


def test_privileged_steps_in_the_service_itself(
    start_nova: NovaFactory, busybox_image: ImageFactory, strategy: str
) -> None:
    nova = start_nova(resizable(strategy), privsep_daemon=False)
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    live(server)
    server.delete()
    nova.wait_for_no_leftovers()
    assert nova.tracebacks() == []


def test_debian(
    start_nova: NovaFactory, debian_image: Path, tmp_path: Path, strategy: str
) -> None:
    """Nova's own shift ruins it."""
    # Its init has an initctl, and may end in time.
    settings = changed("DEFAULT", shutdown_timeout=2)
    nova = start_nova(resizable(strategy, settings))
    server = nova.boot(nova.add_image(debian_image))
    server.run_in("setfacl", "-m", "u:1000:r", "/etc/hostname")
    for _ in range(2):
        assert is_private(server)
        links = "find /usr/bin -xdev -type f -links +1 -printf '%U\\n'"
        owners = server.run_in("sh", "-c", f"{links} | sort -u").stdout
        assert owners == "0\n"
        assert mode_of(server, "/usr/bin/passwd") == "4755 0"
        assert "cap_net_raw" in server.run_in("getcap", "/bin/ping").stdout
        acl = server.run_in("getfacl", "-n", "/etc/hostname").stdout
        assert "user:1000:r--" in acl
        server.stop()
        # A file that the host adds ruins nothing either.
        add_file(server.disk, tmp_path / "mounted")
        server.start()
    server.delete()
    nova.wait_for_no_leftovers()


def add_file(image: Path, point: Path) -> None:
    """Add a file of the host's root to a disk image."""
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        (point / "etc/added").touch()
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.mark.parametrize("helper", ["sudo", "rootwrap"])
def test_a_compute_service_that_is_not_root(
    helper: str,
    make_user: UserFactory,
    start_nova: NovaFactory,
    busybox_image: ImageFactory,
) -> None:
    nova = start_nova(DRIVER, user=make_user(helper))
    status = Path(f"/proc/{nova.process.pid}/status").read_text()
    assert f"\nUid:\t{ID}\t{ID}\t" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    assert is_private(server)
    server.stop()
    server.start()
    assert is_private(server)
    server.delete()
    nova.wait_for_no_leftovers()
    assert nova.tracebacks() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            changed("libvirt", uid_maps="0:0:65536"),
            "[libvirt] uid_maps = 0:0:65536: ",
        ),
        (
            changed("libvirt", gid_maps=""),
            "[libvirt] gid_maps: is empty, but uid_maps is set",
        ),
        (LEASES, "/etc/subuid"),
        (changed("libvirt", virt_type="qemu"), "this driver is for lxc"),
        (
            changed("lxc_userns", rootfs_strategy="overlay"),
            "nor in a snapshot of it",
        ),
        (
            {"DEFAULT": {"compute_driver": OURS}},
            "neither [libvirt] uid_maps and gid_maps nor [lxc_userns] "
            "subid_owner is set",
        ),
        (
            {
                "DEFAULT": {"compute_driver": OURS},
                "libvirt": {"uid_map": f"0:{BASE}:65536"},
            },
            "[libvirt] uid_map: unknown option; write [libvirt] uid_maps",
        ),
        (
            {
                "DEFAULT": {"compute_driver": OURS},
                "lxc-userns": {"subid_owner": "nova"},
            },
            "[lxc-userns]: unknown section; write [lxc_userns]",
        ),
    ],
)
def test_a_configuration_that_would_start_nothing(
    start_nova: NovaFactory, settings: Settings, said: str
) -> None:
    nova = start_nova(settings, start_compute=False)
    with pytest.raises(RefusedError) as caught:
        nova.start_compute()
    assert said in str(caught.value)


def test_nothing_configured_and_preferred(start_nova: NovaFactory) -> None:
    nova = start_nova(
        {
            "DEFAULT": {"compute_driver": OURS},
            "lxc_userns": {"userns_policy": "preferred"},
        }
    )
    assert nova.tracebacks() == []


@pytest.mark.parametrize("user", [None, "sudo"])
def test_a_helper_that_reads_other_files(
    start_nova: NovaFactory,
    make_user: UserFactory,
    directory: Path,
    user: str | None,
) -> None:
    """Two configuration files, and one of them named in helper_command.

    Instances were ACTIVE as the host's root, without a warning.
    """
    # Where a line for sudo allows it.
    other = directory / "nova-other/nova.conf"
    other.parent.mkdir(mode=0o711, exist_ok=True)
    other.write_text(
        "[lxc_userns]\nuserns_policy = preferred\n"
        f"[DEFAULT]\ninstances_path = {directory}\n"
    )
    made = make_user(user) if user else None
    words = made.helper if made else (str(BIN / "privsep-helper"),)
    command = " ".join((*words, "--config-file", str(other)))
    nova = start_nova(
        changed("lxc_userns_privileged", helper_command=command),
        user=made,
        start_compute=False,
    )
    with pytest.raises(RefusedError) as caught:
        nova.start_compute()
    text = str(caught.value)
    map_text = f"0:{BASE}:65536"
    assert (
        f"[libvirt] uid_maps is {map_text!r} in the service, and '' in its "
        "privileged helper"
    ) in text
    assert (
        "[lxc_userns] userns_policy is 'required' in the service, and "
        "'preferred' in its privileged helper"
    ) in text


def test_no_option_of_novas_is_nearly_ours() -> None:
    """Nor any of what Nova uses."""
    points = importlib.metadata.entry_points(group="oslo.config.opts")
    names = {each.name for each in points} - {"lxc_userns"}
    assert "nova.conf" in names
    argv = [f"{BIN}/oslo-config-generator", "--format", "json"]
    argv += chain.from_iterable(("--namespace", each) for each in names)
    # In a process of its own, for it loads all of Nova.
    done = subprocess.run(
        argv,
        env=os.environ | {"OS_NOVA_DISABLE_EVENTLET_PATCHING": "true"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    sections = json.loads(done.stdout)["options"]
    assert "uid_maps" in {each["name"] for each in sections["libvirt"]["opts"]}
    known = {GROUP: [each.name for each in OPTS], allowed_paths.GROUP: []}
    for name, section in sections.items():
        options = [each["name"] for each in section["opts"]]
        assert [*config_names._misnamed_options(name, options, known)] == []


def test_two_servers_with_leases(
    start_nova: NovaFactory, busybox_image: ImageFactory, pool: None
) -> None:
    nova = start_nova(LEASES)
    image = nova.add_image(busybox_image("ext4"))
    large = nova.flavor(lxc_userns__range_size="131072")
    one, other = nova.boot(image), nova.boot(image, flavor=large)
    assert is_private(one, 2_000_000_000)
    assert other.uid_map() == [[0, 2_000_065_536, 131072]]
    one.stop()
    # A third finds no room, and takes no one else's.
    third = nova.boot(image, expect="ERROR")
    third.delete()
    one.start()
    assert is_private(one, 2_000_000_000)
    one.delete()
    other.delete()
    nova.wait_for_no_leftovers()


def test_a_flavor_that_asks_for_the_host(
    start_nova: NovaFactory, busybox_image: ImageFactory
) -> None:
    nova = start_nova(DRIVER)
    image = nova.add_image(busybox_image("ext4"))
    flavor = nova.flavor(lxc_userns__mode="host")
    server = nova.boot(image, expect="ERROR", flavor=flavor)
    assert "userns_policy = required asks for one" in server.fault
    server.delete()
    nova.wait_for_no_leftovers()
    nova.stop_compute()
    nova.configure({"lxc_userns": {"userns_policy": "preferred"}})
    nova.start_compute()
    server = nova.boot(image, flavor=flavor)
    assert server.namespace("user") == os.readlink("/proc/self/ns/user")
    # Not in the host's network even so.
    assert server.namespace("net") != os.readlink("/proc/self/ns/net")
    server.delete()
    nova.wait_for_no_leftovers()


def test_a_failed_boot_leaves_nothing(nova: Nova, directory: Path) -> None:
    broken = directory / "broken"
    broken.write_bytes(bytes(1 << 20))
    server = nova.boot(nova.add_image(broken), expect="ERROR")
    assert "is no raw image of ext2, ext3, ext4" in server.fault
    server.delete()
    nova.wait_for_no_leftovers()


@pytest.mark.parametrize("kind", ["ext2", "ext4"])
def test_an_image_that_is_qcow2(
    nova: Nova, busybox_image: ImageFactory, directory: Path, kind: str
) -> None:
    """Nova makes a raw one of it."""
    other = directory / f"{kind}.qcow2"
    argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*argv, busybox_image(kind), other], check=True)
    server = nova.boot(nova.add_image(other, disk_format="qcow2"))
    assert is_private(server)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_image_that_is_an_archive(
    nova: Nova, directory: Path, busybox_rootfs: Path, compressed: bool
) -> None:
    """It would be unpacked on the host's own filesystem, of any size."""
    archive = directory / "archive"
    option = "--gzip" if compressed else "--no-auto-compress"
    argv = ["tar", "--create", option, "--file", str(archive)]
    subprocess.run([*argv, "-C", str(busybox_rootfs), "."], check=True)
    server = nova.boot(nova.add_image(archive), expect="ERROR")
    said = "compressed by gzip" if compressed else "a tar archive"
    assert (
        f"is unacceptable: is {said}, and no raw image of ext2" in server.fault
    )
    assert "maximum number of retries" not in server.fault
    server.delete()
    nova.wait_for_no_leftovers()


def test_a_snapshot_under_other_maps(
    start_nova: NovaFactory, busybox_image: ImageFactory, strategy: str
) -> None:
    settings = changed("lxc_userns", rootfs_strategy=strategy)
    nova = start_nova(settings)
    # Nova's own driver makes none without being told the format.
    nova.stop_compute()
    nova.configure({"libvirt": {"snapshot_image_format": None}})
    nova.start_compute()
    server = nova.boot(nova.add_image(busybox_image("ext4")))
    server.run_in(
        "sh",
        "-c",
        "echo hello >/home/alice/made;"
        "chown alice /home/alice/made; chmod 4750 /home/alice/made",
    )
    image = server.snapshot()
    server.delete()
    nova.stop_compute()
    nova.configure(maps(OTHER))
    nova.start_compute()
    again = nova.boot(image)
    assert is_private(again, OTHER)
    assert mode_of(again, "/home/alice/made") == "4750 1000"
    assert mode_of(again, "/bin/busybox") == "755 0"
    again.delete()
    nova.wait_for_no_leftovers()
    assert nova.tracebacks() == []
