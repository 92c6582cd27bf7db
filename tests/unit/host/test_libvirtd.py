# SPDX-License-Identifier: Apache-2.0
"""libvirt, where it runs, and what it can see there."""

from pathlib import Path
from typing import cast

import pytest

from lxc_userns.exceptions import LibvirtError
from lxc_userns.findings import Finding, Severity
from lxc_userns.host import cgroups, libvirtd, propagation
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.host.kernel import Version
from lxc_userns.libvirtd import daemon
from lxc_userns.libvirtd.client import Guests
from lxc_userns.libvirtd.daemon import Daemon
from lxc_userns.linux.mounts import Mount
from lxc_userns.linux.process import Process

TOP = Path(__file__).parents[3]
FOR_WHOM = ", for containers whose XML has a <seclabel>"
INSTALL = (
    "install libvirt-daemon-driver-lxc (the package is so named in Debian and "
    "in Fedora) and restart libvirtd"
)
START = (
    "start libvirtd or virtlxcd, as by systemctl start libvirtd, and run this "
    "as root"
)


@pytest.mark.parametrize(
    ("version", "result"),
    [
        ("9.0.0", passed("libvirt 9.0.0 with its LXC driver")),
        ("10.2.1", passed("libvirt 10.2.1 with its LXC driver")),
        (
            "8.10.0",
            warned(
                "libvirt 8.10.0 with its LXC driver; nothing before 9.0.0 was "
                "tried",
                "upgrade to 9.0.0 or later, or try a container before you "
                "rely on it",
            ),
        ),
    ],
)
def test_version(version: str, result: Finding) -> None:
    assert libvirtd.evaluate_version(version) == result


@pytest.mark.parametrize(
    ("error", "has_driver", "remedy"),
    [
        ("no such socket", True, START),
        ("no such socket", False, INSTALL),
        ("no connection driver available for lxc:///", True, INSTALL),
    ],
)
def test_silence(error: str, has_driver: bool, remedy: str) -> None:
    found = libvirtd.evaluate_silence(error, has_driver)
    assert found == failed(error, remedy)


class NoGuests:
    def version(self) -> str:
        raise LibvirtError("connect to lxc:///", "no such socket")


def test_silence_is_told(tmp_path: Path) -> None:
    error = "libvirt: connect to lxc:///: no such socket"

    def check() -> Finding:
        return libvirtd.check(lambda: cast(Guests, NoGuests()), tmp_path)

    assert check() == failed(error, INSTALL)
    drivers = tmp_path / "usr/lib64/libvirt/connection-driver"
    drivers.mkdir(parents=True)
    (drivers / "libvirt_driver_lxc.so").touch()
    assert check() == failed(error, START)


NOT_CONFINED = (
    "none confines containers; their user namespaces do not depend on one"
)


@pytest.mark.parametrize(
    ("models", "lsms", "result"),
    [
        (["apparmor"], [], passed("apparmor" + FOR_WHOM)),
        (["selinux"], ["apparmor"], passed("selinux" + FOR_WHOM)),
        (
            [],
            ["capability", "yama", "apparmor"],
            warned(
                NOT_CONFINED,
                'set security_driver = "apparmor" in /etc/libvirt/lxc.conf '
                "and restart libvirtd",
            ),
        ),
        (
            [],
            ["selinux"],
            warned(
                NOT_CONFINED,
                'set security_driver = "selinux" in /etc/libvirt/lxc.conf '
                "and restart libvirtd",
            ),
        ),
        (
            [],
            ["capability", "yama"],
            warned(
                NOT_CONFINED,
                "boot with AppArmor or SELinux and restart libvirtd, which "
                "takes it unless security_driver in /etc/libvirt/lxc.conf is "
                "another",
            ),
        ),
    ],
)
def test_security_driver(
    models: list[str], lsms: list[str], result: Finding
) -> None:
    assert libvirtd.evaluate_security(models, lsms) == result


@pytest.mark.parametrize(
    "place",
    [
        "abstractions/libvirt-lxc.d/lxc-userns",
        "local/abstractions/libvirt-lxc",
        "libvirt/TEMPLATE.lxc",
    ],
)
def test_mounts_under_apparmor(tmp_path: Path, place: str) -> None:
    assert not libvirtd.refuses_mounts(tmp_path)
    own = tmp_path / "abstractions/libvirt-lxc"
    own.parent.mkdir()
    own.write_text("  umount,\n  mount fstype=tmpfs,\n  # mount,\n")
    assert libvirtd.refuses_mounts(tmp_path)
    shipped = (TOP / "etc/apparmor.d/libvirt-lxc").read_text()
    (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / place).write_text(shipped)
    assert not libvirtd.refuses_mounts(tmp_path)


def mounted(**points: str) -> list[Mount]:
    return [
        Mount(number, f"/sys/fs/cgroup{name.replace('_', '/')}", kind)
        for number, (name, kind) in enumerate(points.items())
    ]


SYSTEMD = (
    "version 1 without systemd-machined: libvirt makes /sys/fs/cgroup/systemd "
    "belong to the root of each container it starts"
)
WITH_SYSTEMD = mounted(_="tmpfs", _memory="cgroup", _systemd="cgroup")
AGAINST_SYSTEMD = (
    "install systemd-container; or, if no container runs systemd, run "
    "libvirtd where /sys/fs/cgroup/systemd is not mounted; or boot with "
    "systemd.unified_cgroup_hierarchy=1"
)
RELEASE_AGENT = warned(
    f"{SYSTEMD}, and before Linux 5.17 the host runs what is written to its "
    "release_agent (CVE-2022-0492), unless this distribution has mended it",
    AGAINST_SYSTEMD,
)


@pytest.mark.parametrize(
    ("found", "version", "result"),
    [
        (
            mounted(_="tmpfs", _memory="cgroup"),
            (4, 19),
            passed("version 1"),
        ),
        (
            WITH_SYSTEMD,
            (5, 17),
            warned(
                f"{SYSTEMD}; no limit depends on that hierarchy",
                AGAINST_SYSTEMD,
            ),
        ),
        (WITH_SYSTEMD, (5, 16), RELEASE_AGENT),
        (WITH_SYSTEMD, None, RELEASE_AGENT),
        (
            [Mount(1, "/sys/fs/cgroup", "cgroup2")],
            (6, 1),
            passed(
                "version 2; the limits of a container are set in the group "
                "that systemd makes for it, which is root's and above the one "
                "that libvirt gives to the container"
            ),
        ),
        (
            mounted(_memory="cgroup", _systemd="cgroup", _unified="cgroup2"),
            (6, 1),
            failed(
                "hybrid, with version 2 on /sys/fs/cgroup/unified: libvirt "
                "cannot start containers",
                "boot with systemd.unified_cgroup_hierarchy=1 for version 2 "
                "alone, or run libvirtd where /sys/fs/cgroup/unified is not "
                "mounted",
            ),
        ),
        (
            [Mount(1, "/", "ext4")],
            (6, 1),
            failed(
                "no cgroup filesystem is mounted below /sys/fs/cgroup",
                "mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
            ),
        ),
    ],
)
def test_cgroups(
    found: list[Mount], version: Version | None, result: Finding
) -> None:
    machined = found == [Mount(1, "/sys/fs/cgroup", "cgroup2")]
    assert cgroups.evaluate(found, version, has_machined=machined) == result


def test_version_1_with_ranges_for_each_container() -> None:
    """The second one with systemd ended seconds later for that."""
    result = cgroups.evaluate(
        WITH_SYSTEMD, (6, 1), has_machined=False, has_pool=True
    )
    assert result == failed(
        f"{SYSTEMD}, so that beside one with systemd no other can start, for "
        "each has ID maps of its own; no limit depends on that hierarchy",
        AGAINST_SYSTEMD,
    )
    assert cgroups.evaluate(WITH_SYSTEMD, (6, 1), has_pool=True) == passed(
        "version 1, with a group for each container"
    )


def test_version_2_without_a_group_for_each() -> None:
    found = [Mount(1, "/sys/fs/cgroup", "cgroup2")]
    result = cgroups.evaluate(found, (6, 1), has_machined=False)
    assert (result.severity, result.remedy) == (
        Severity.WARN,
        "install systemd-container",
    )
    assert "only if its domain has a <partition> of its own" in result.message


def test_the_cgroups_that_count_are_those_of_the_daemon() -> None:
    points = mounted(_="tmpfs", _memory="cgroup")
    libvirt = Daemon("libvirtd", 7, tuple(points))
    assert cgroups.check(libvirt) == passed("version 1")


HIDDEN = warned(
    "not known, for it is hidden what /run is mounted on",
    "run this and libvirtd with the host's root directory",
)
ROOT = Mount(1, "/", "ext4", peers=5)
APART = failed(
    "libvirtd (process 7) is in another mount namespace, and what is mounted "
    "below /run does not reach it",
    "run this and libvirtd in one mount namespace, without PrivateMounts= and "
    "the like, or mount --make-rshared / before libvirtd starts",
)
REACHED = passed("what is mounted below /run reaches libvirtd (process 7)")


@pytest.mark.parametrize(
    ("own", "theirs", "result"),
    [
        (
            [Mount(1, "/", "ext4")],
            [Mount(1, "/", "ext4")],
            passed("libvirtd (process 7) has the same mounts as this process"),
        ),
        ([ROOT], [Mount(9, "/", "ext4", peers=5)], REACHED),
        ([ROOT], [Mount(9, "/", "ext4", peers=6, master=5)], REACHED),
        ([ROOT], [Mount(9, "/", "ext4", peers=6)], APART),
        ([ROOT], [Mount(9, "/", "ext4")], APART),
        ([Mount(1, "/", "ext4")], [Mount(9, "/", "ext4")], APART),
        # They reach us, and ours not them.
        (
            [Mount(1, "/", "ext4", master=5)],
            [Mount(9, "/", "ext4", peers=5)],
            APART,
        ),
        (
            [ROOT, Mount(2, "/ru", "tmpfs")],
            [ROOT, Mount(9, "/ru", "tmpfs")],
            passed("libvirtd (process 7) has the same mounts as this process"),
        ),
        # It is /run that counts, the last of them; and not /running.
        (
            [ROOT, Mount(2, "/run", "tmpfs"), Mount(3, "/run", "tmpfs")],
            [Mount(3, "/run", "tmpfs"), Mount(9, "/running", "tmpfs")],
            passed("libvirtd (process 7) has the same mounts as this process"),
        ),
        ([ROOT], [ROOT, Mount(9, "/run", "tmpfs")], APART),
        ([], [ROOT], HIDDEN),
        ([ROOT], [], HIDDEN),
    ],
)
def test_mounts_in_run_path(
    own: list[Mount], theirs: list[Mount], result: Finding
) -> None:
    libvirt = Daemon("libvirtd", 7, tuple(theirs))
    assert propagation.evaluate(Path("/run"), own, libvirt) == result


def test_mounts_of_a_daemon_that_is_not_found() -> None:
    assert propagation.evaluate(Path("/run"), [], None) == warned(
        "not known, for the process of libvirtd or virtlxcd is not found",
        "start it, and run this as root in the PID namespace that it is in",
    )


PROCESSES = {
    1: "systemd", 7: "libvirtd", 8: "virtlxcd", 9: "sshd", 11: "virtlxcd",
    "self": "python",
}  # fmt: skip
#: One that calls itself so, in a user namespace that somebody has made.
FORGED = 11


class FakeProcess:
    def __init__(self, pid: int | str) -> None:
        if pid not in PROCESSES:
            raise ProcessLookupError
        self.name = PROCESSES[pid]
        self.user_namespace = (4, FORGED if pid == FORGED else 1)
        self.mounts = [Mount(int(pid), "/", "ext4")] if pid != "self" else []

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("peers", "pids", "found"),
    [
        ([7], [8], "libvirtd (process 7)"),
        # systemd listens for it, and these numbers are others' meanwhile.
        ([1], [9, 10, 8], "virtlxcd (process 8)"),
        ([], [], "None"),
        ([1], [9], "None"),
        ([1], [FORGED, 7], "libvirtd (process 7)"),
    ],
)
def test_the_daemon(peers: list[int], pids: list[int], found: str) -> None:
    result = daemon.find(
        lambda: peers,
        lambda: pids,
        lambda pid: cast(Process, FakeProcess(pid)),
    )
    assert str(result) == found
    if result is not None:
        assert result.mounts == (Mount(result.pid, "/", "ext4"),)


def test_files_of_process_ids(tmp_path: Path) -> None:
    (tmp_path / "libvirtd.pid").write_text("7")
    (tmp_path / "virtlxcd.pid").write_text("garbage")
    assert list(daemon.find_pids((tmp_path / "x", tmp_path))) == [7]
