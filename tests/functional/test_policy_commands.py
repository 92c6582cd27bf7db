# SPDX-License-Identifier: Apache-2.0
"""Policy for the host's user namespace, by the command line."""

import errno
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from lxc_userns.domain import Marker, read_marker
from lxc_userns.spec.policy import HOST_CAPABILITIES
from tests.functional import images
from tests.functional.command_line import BASE, ID_MAP, CommandLine, Result
from tests.functional.guest import execute
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

SLEEP = "/bin/sleep 1000"
NAMESPACES = {"net": "network", "ipc": "ipc", "uts": "uts"}
REQUIRED = (
    "cannot run in a user namespace of its own, and [lxc_userns] "
    "userns_policy = required asks for one: "
)
WISH = "it asks for mode host"


class Cli(CommandLine):
    """The program, with a policy that can change."""

    def allow(self, policy: str) -> None:
        """Set the policy."""
        text = self.config.read_text()
        before = text.partition("userns_policy")[0]
        self.config.write_text(f"{before}userns_policy = {policy}\n")

    def start(self, name: str, rootfs: Path, *options: str | Path) -> Result:
        """Run a container that does nothing."""
        return self("container", "run", name, "--rootfs", rootfs, "--init",
                    SLEEP, "-f", "json", *options)  # fmt: skip


@pytest.fixture
def cli(
    libvirt_connection: libvirt.virConnect,
    tmp_path: Path,
    reachable_path: Path,
) -> Iterator[Cli]:
    """The program; its containers are destroyed at the end."""
    made = Cli.make(tmp_path, reachable_path / "run")
    assert isinstance(made, Cli)
    yield made
    for container in made.json("container", "list"):
        made("container", "destroy", container["name"])
    assert made.mounts() == []


def warned(result: Result) -> tuple[dict[str, object], str]:
    """Return what it printed, and its one warning."""
    assert result.code == 0, result
    (line,) = result.err.splitlines()
    assert line.startswith("warning: ")
    return json.loads(result.out), line.removeprefix("warning: ")


def is_shared(pid: object, kind: str) -> bool:
    paths = (f"/proc/{each}/ns/{kind}" for each in (pid, "self"))
    one, other = map(os.readlink, paths)
    return one == other


def bounding_set(pid: object) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (x for x in status.splitlines() if x.startswith("CapBnd:"))
    return int(line.split()[1], 16)


def test_the_policy_is_a_ceiling(cli: Cli, busybox_rootfs: Path) -> None:
    everything = (
        "--mode", "host", "--network", "host", "--ipc", "host", "--uts",
        "host", "--capability", "sys_time", "--capability", "CAP_MKNOD",
        "--capability", "net_admin", "--device", "/dev/fuse",
        "--volume", f"{busybox_rootfs.parent}:/v:host",
    )  # fmt: skip
    error = cli.start("all", busybox_rootfs, *everything).error()
    # Every reason, and not the device and the capability, which it can have.
    assert error == "all: " + REQUIRED + "; ".join(
        (
            WISH,
            "it shares the host's IPC namespace",
            "it shares the host's network namespace",
            "it shares the host's UTS namespace",
            "CAP_MKNOD counts in the host's user namespace only",
            "CAP_SYS_TIME counts in the host's user namespace only",
            f"the volume {busybox_rootfs.parent} keeps the host's owners",
        )
    )
    assert cli.json("container", "list") == []
    assert busybox_rootfs.stat().st_uid == 0
    cli.allow("preferred")
    error = cli.start(
        "all", busybox_rootfs, *everything[2:], "--mode", "private"
    ).error()
    assert error.startswith(
        "all: cannot run in a user namespace of its own, and it asks for one: "
        "it shares the host's IPC namespace; "
    )
    assert cli.json("container", "list") == []


@pytest.mark.parametrize("kind", NAMESPACES)
def test_a_shared_namespace(
    cli: Cli,
    busybox_rootfs: Path,
    kind: str,
    libvirt_connection: libvirt.virConnect,
) -> None:
    options = (f"--{NAMESPACES[kind]}", "host")
    reason = (
        "it shares the host's "
        f"{NAMESPACES[kind] if kind == 'net' else kind.upper()} namespace"
    )
    error = cli.start("open", busybox_rootfs, *options).error()
    assert error == f"open: {REQUIRED}{reason}"

    cli.allow("preferred")
    before = socket.gethostname()
    shown, warning = warned(cli.start("open", busybox_rootfs, *options))
    assert socket.gethostname() == before
    assert warning == (
        "open: runs in the host's user namespace, and its root is the "
        f"host's: {reason}"
    )
    pid = shown["init_pid"]
    assert {each: is_shared(pid, each) for each in NAMESPACES} == {
        each: each == kind for each in NAMESPACES
    }
    assert is_shared(pid, "user")
    assert not is_shared(pid, "pid")
    assert not is_shared(pid, "mnt")
    # Shown, kept, and noted where whoever reads the domain finds it.
    assert shown["mode"] == "host"
    assert shown["mode_reasons"] == [reason]
    assert shown["shared"] == [NAMESPACES[kind]]
    assert shown["uid_map"] is None
    assert cli.json("container", "show", "open") == shown
    domain = libvirt_connection.lookupByName("open")
    assert read_marker(domain.XMLDesc()) == Marker(
        rootfs=str(busybox_rootfs),
        rootfs_kind="directory",
        strategy="plain",
        mode="host",
        mode_reasons=(reason,),
    )
    verified = cli.json("container", "verify", "open")
    assert (verified["mode"], verified["init_pid"]) == ("host", pid)


def test_capabilities(cli: Cli, busybox_rootfs: Path) -> None:
    # One that counts in its own namespaces needs nothing of the host.
    shown = cli.start(
        "own", busybox_rootfs, "--capability", "net_admin"
    ).json()
    assert (shown["mode"], shown["capabilities"]) == ("private", ["net_admin"])
    assert (
        execute(shown["init_pid"], "ip", "link", "set", "lo", "up").returncode
        == 0
    )
    assert not bounding_set(shown["init_pid"]) & 1 << 27  # CAP_MKNOD
    assert not bounding_set(shown["init_pid"]) & 1 << 17  # CAP_SYS_RAWIO
    # Those that libvirt cannot name, from CAP_AUDIT_READ on.
    assert not bounding_set(shown["init_pid"]) >> 37
    assert bounding_set(shown["init_pid"]) & 1 << 22  # CAP_SYS_BOOT
    assert cli("container", "destroy", "own").code == 0
    # It is had by who wants it, and counts for nothing.
    wish = ("--mode", "private", "--capability", "sys_rawio")
    shown = cli.start("own", busybox_rootfs, *wish).json()
    assert shown["mode"] == "private"
    assert bounding_set(shown["init_pid"]) & 1 << 17
    assert cli("container", "destroy", "own").code == 0

    cli.allow("preferred")
    # A tree that is shown as it is must not be one that is shifted.
    make = "/bin/sh -c 'mknod /root/node c 1 3; exec sleep 1000'"
    shown, warning = warned(
        cli.start(
            "made", busybox_rootfs, "--capability", "mknod", "--init", make
        )
    )
    assert "CAP_MKNOD counts in the host's user namespace only" in warning
    assert bounding_set(shown["init_pid"]) & 1 << 27
    made = busybox_rootfs / "root/node"
    wait_for(made.is_char_device)
    verified = cli.json("container", "verify", "made")
    assert verified["mode"] == "host"


def test_devices(cli: Cli, busybox_rootfs: Path) -> None:
    error = cli.start("web1", busybox_rootfs, "--device", "/dev/x").error()
    assert error == "web1: device '/dev/x': No such file or directory"
    error = cli.start("web1", busybox_rootfs, "--device", "/dev/net").error()
    assert error.startswith("web1: device '/dev/net': is not a device node")
    shown = cli.start("web1", busybox_rootfs, "--device", "/dev/fuse").json()
    assert (shown["mode"], shown["devices"]) == ("private", ["/dev/fuse"])
    pid = shown["init_pid"]
    assert id_of_owner(pid, "/dev/fuse") == BASE
    opened = execute(pid, "sh", "-c", "exec 3<>/dev/fuse")
    assert (opened.returncode, opened.stderr) == (0, "")
    assert cli.json("container", "verify", "web1")["init_pid"] == pid
    assert cli("container", "stop", "web1", "--timeout", "0").code == 0
    assert cli.json("container", "start", "web1")["devices"] == ["/dev/fuse"]


def id_of_owner(pid: object, path: str) -> int:
    return Path(f"/proc/{pid}/root{path}").stat().st_uid


def test_a_volume_with_the_hosts_owners(
    cli: Cli, busybox_rootfs: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 1234, 1234)
    cli.allow("preferred")
    volume = ("--volume", f"{data}:/data:host")
    shown, warning = warned(cli.start("web1", busybox_rootfs, *volume))
    assert f"the volume {data} keeps the host's owners" in warning
    assert shown["mode"] == "host"
    pid = shown["init_pid"]
    assert id_of_owner(pid, "/data") == 1234
    assert execute(pid, "touch", "/data/made").returncode == 0
    assert (data / "made").stat().st_uid == 0


def test_a_policy_that_changes(cli: Cli, busybox_rootfs: Path) -> None:
    cli.allow("preferred")
    warned(cli.start("web1", busybox_rootfs, "--mode", "host"))
    assert cli("container", "stop", "web1", "--timeout", "0").code == 0
    cli.allow("required")
    error = cli("container", "start", "web1").error()
    assert error == f"web1: {REQUIRED}{WISH}"
    assert cli.json("container", "show", "web1")["state"] == "stopped"
    cli.allow("preferred")
    assert cli("container", "start", "web1").code == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("uid_maps", "uid_map"),
        ("[lxc_userns]\n", "[lxc-userns]\n"),
        ("[lxc_userns]\n", "[lxc_userns]\nsubid_ower = lxc\n"),
    ],
)
def test_a_misspelt_name_starts_nothing(
    cli: Cli, busybox_rootfs: Path, right: str, wrong: str
) -> None:
    good = cli.config.read_text()
    cli.config.write_text(good.replace(right, wrong))
    result = cli("config", "check", "-f", "value")
    assert result.code == 1
    assert "unknown" in result.out
    for options in ([], ["--mode", "host"]):
        error = cli.start("web1", busybox_rootfs, *options).error()
        assert "unknown" in error
    cli.config.write_text(good)


def test_required_that_somebody_has_written(
    cli: Cli, busybox_rootfs: Path
) -> None:
    good = cli.config.read_text()
    cli.config.write_text(good.replace(ID_MAP, ""))
    cli.allow("required")
    result = cli("config", "check", "-f", "value")
    assert result.code == 1
    assert "userns_policy required neither" in result.out
    error = cli.start("web1", busybox_rootfs, "--mode", "host").error()
    assert "userns_policy = required: neither" in error
    cli.config.write_text(good)


def test_without_maps_nothing_is_run_by_accident(
    cli: Cli, busybox_rootfs: Path
) -> None:
    text = cli.config.read_text().replace(ID_MAP, "")
    cli.config.write_text(text)
    error = cli.start("web1", busybox_rootfs).error()
    assert "[libvirt] uid_maps, gid_maps: are empty" in error
    error = cli.start("web1", busybox_rootfs, "--mode", "private").error()
    assert "it asks for one: user namespaces are off" in error
    error = cli.start("web1", busybox_rootfs, "--mode", "host").error()
    assert error == f"web1: {REQUIRED}{WISH}"
    # No one gets in by asking for more.
    error = cli.start("web1", busybox_rootfs, "--network", "host").error()
    assert error == f"web1: {REQUIRED}it shares the host's network namespace"
    cli.allow("preferred")
    error = cli.start("web1", busybox_rootfs, "--network", "host").error()
    assert "[libvirt] uid_maps, gid_maps: are empty" in error


def test_a_disk_of_the_host(
    cli: Cli, busybox_rootfs: Path, tmp_path: Path
) -> None:
    image = tmp_path / "disk"
    images.make_image("ext4", image, 16)
    argv = ["losetup", "--find", "--show", str(image)]
    device = subprocess.check_output(argv, text=True).strip()
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    try:
        subprocess.run(["mount", device, mounted], check=True)
        error = cli.start("web1", busybox_rootfs, "--device", device).error()
        assert error == (
            f"web1: {REQUIRED}the device {device} has what the host itself "
            "has mounted"
        )
        subprocess.run(["umount", mounted], check=True)
        shown = cli.start("web1", busybox_rootfs, "--device", device).json()
        assert shown["mode"] == "private"
        assert cli("container", "destroy", "web1").code == 0
    finally:
        subprocess.run(["umount", mounted], stderr=subprocess.DEVNULL)
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--capability", "all"), "capability 'all': is not one of audit_"),
        (
            ("--device", "/etc/passwd"),
            "'/etc/passwd': is not a path below /dev",
        ),
        (("--network", "host", "--network", "bridge:b"), "host alone"),
    ],
)
def test_what_cannot_be_asked_for(
    cli: Cli, busybox_rootfs: Path, options: tuple[str, ...], said: str
) -> None:
    assert said in cli.start("web1", busybox_rootfs, *options).error()


def test_the_abstract_sockets_of_the_host(
    cli: Cli, busybox_rootfs: Path
) -> None:
    """Sharing the host's network gives them away; a namespace keeps them."""
    name = f"lxc-userns-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        seen = f"grep -c @{name} /proc/net/unix"
        shown = cli.start("own", busybox_rootfs).json()
        done = execute(shown["init_pid"], "sh", "-c", seen)
        assert done.stdout == "0\n", done
        assert cli("container", "destroy", "own").code == 0
        cli.allow("preferred")
        shown, _ = warned(
            cli.start("open", busybox_rootfs, "--network", "host")
        )
        done = execute(shown["init_pid"], "sh", "-c", seen)
        assert done.stdout == "1\n", done


def test_what_capabilities_count_for(tmp_path: Path) -> None:
    """The table of the policy is what this kernel does."""
    program = tmp_path / "refusals"
    source = Path(__file__).with_name("refusals.c")
    subprocess.run(["gcc", "-Wall", "-o", program, source], check=True)

    def tried(*prefix: str) -> dict[str, int]:
        place = tmp_path / f"place-{len(prefix)}"
        place.mkdir()
        (place / "others").touch(0o644)
        os.chown(place / "others", 1, 1)
        text = subprocess.check_output(
            [*prefix, "setsid", "--wait", program, place], text=True
        )
        lines = map(str.split, text.splitlines())
        return {name: int(number) for name, number in lines}

    on_the_host = tried()
    inside = tried(
        "unshare", "--map-root-user", "--mount", "--pid", "--fork", "--net",
        "--ipc", "--uts",
    )  # fmt: skip
    assert inside.keys() <= HOST_CAPABILITIES
    assert len(inside) > 12
    done = {name for name, error in on_the_host.items() if not error}
    assert len(done) > 8, on_the_host
    for name, error in inside.items():
        # A kernel without modules has no such call.
        assert error or name not in done, name
        assert error in (
            errno.EPERM, errno.EACCES, errno.ENOMEM, errno.ECONNREFUSED,
            errno.ENOSYS,
        ), name  # fmt: skip
