# SPDX-License-Identifier: Apache-2.0
"""Checks of root, kernel and user namespaces."""

import errno
import os

import pytest

from lxc_userns.findings import Finding, Severity
from lxc_userns.host import kernel, limits, programs, root, user_namespaces
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.linux import syscalls

RAISE = (
    "raise sysctl user.max_user_namespaces to 1024 or more, in /etc/sysctl.d"
)
MANY_ENTRIES = warned(
    "Linux 4.18.0-553.el8_10; root in a container can make ID maps of more "
    "than 5 entries there, and with these get at files of others "
    "(CVE-2018-18955), unless this distribution has mended it",
    "boot Linux 4.20 or later, or a kernel of which its distribution says "
    "that it is mended",
)
NO_OPENAT2 = warned(
    "Linux 5.5.1; it has no openat2 (Linux 5.6 has): that a root filesystem "
    "lacks its init is not noticed before the container starts",
    "boot Linux 5.6 or later",
)
NOT_IDMAPPED = warned(
    "Linux 5.11.0; it has no idmapped mounts (Linux 5.12 has): root "
    "filesystems are shifted on disk (chown), which takes its time, and "
    "volumes cannot be idmapped",
    "boot Linux 5.12 or later",
)


@pytest.mark.parametrize(
    ("user", "all_ids", "result"),
    [
        (0, True, passed("this is root")),
        (
            0,
            False,
            warned(
                "this is root in a user namespace",
                "run this as root of the host",
            ),
        ),
        (
            1000,
            True,
            failed(
                "this is user 1000; root is needed",
                "run this as root of the host",
            ),
        ),
    ],
)
def test_root(user: int, all_ids: bool, result: Finding) -> None:
    assert root.evaluate(user, all_ids) == result


@pytest.mark.parametrize(
    ("release", "missing", "strategy", "result"),
    [
        ("6.18.44-fc", [], "auto", passed("Linux 6.18.44-fc")),
        ("4.14.336", [], "auto", passed("Linux 4.14.336")),
        ("4.20.0", [], "auto", passed("Linux 4.20.0")),
        ("odd", [], "auto", passed("Linux odd")),
        ("4.18.0-553.el8_10", [], "auto", MANY_ENTRIES),
        ("5.5.1", ["openat2"], "idmapped", NO_OPENAT2),
        ("5.11.0", ["mount_setattr"], "auto", NOT_IDMAPPED),
        ("5.11.0", ["mount_setattr"], "chown", NOT_IDMAPPED),
        ("5.11.0", ["open_tree"], "auto", NOT_IDMAPPED),
        ("5.11.0", ["move_mount"], "auto", NOT_IDMAPPED),
        *(
            (
                "5.11.0",
                ["mount_setattr"],
                strategy,
                failed(
                    "Linux 5.11.0; it has no idmapped mounts (Linux 5.12 "
                    "has), and [lxc_userns] rootfs_strategy is " + strategy,
                    "set rootfs_strategy to auto or chown, or boot Linux 5.12 "
                    "or later",
                ),
            )
            for strategy in ("idmapped", "overlay")
        ),
    ],
)
def test_kernel(
    release: str, missing: list[str], strategy: str, result: Finding
) -> None:
    assert kernel.evaluate(release, missing, strategy) == result


@pytest.mark.parametrize("release", ["4.15.0-213-generic", "4.19.0-27-amd64"])
def test_kernels_with_many_entries(release: str) -> None:
    result = kernel.evaluate(release, [], "auto")
    assert (result.severity, result.remedy) == (
        Severity.WARN,
        MANY_ENTRIES.remedy,
    )


def test_all_that_a_kernel_lacks() -> None:
    missing = ["open_tree", "move_mount", "openat2", "mount_setattr"]
    result = kernel.evaluate("4.19.1", missing, "overlay")
    assert result.severity == Severity.ERROR
    for text in ("idmapped mounts", "openat2", "CVE-2018-18955"):
        assert text in result.message
    assert result.remedy.count("; ") == 2


def test_system_calls_are_missing_if_the_kernel_does_not_know_them() -> None:
    def fake(number: int, *arguments: int) -> int:
        assert arguments[0] == -1
        assert not any(arguments[1:])
        codes = {428: errno.EFAULT, 429: errno.EPERM, 437: errno.EINVAL}
        raise OSError(codes.get(number, errno.ENOSYS), "no")

    assert syscalls.missing_syscalls(fake) == ["mount_setattr"]


@pytest.mark.parametrize(
    ("known", "refused", "result"),
    [
        (True, None, passed("the kernel makes them")),
        (
            False,
            "unshare: unshare failed: Invalid argument",
            failed(
                "this kernel is built without user namespaces",
                "boot one that has CONFIG_USER_NS",
            ),
        ),
        (
            True,
            "unshare: unshare failed: No space left on device",
            failed(
                "the kernel makes none: unshare: unshare failed: No space "
                "left on device",
                f"{RAISE}, or have fewer of them",
            ),
        ),
        (
            True,
            "unshare: unshare failed: Operation not permitted",
            failed(
                "the kernel makes none: unshare: unshare failed: Operation "
                "not permitted",
                "run this as root, and not in a container or under a filter "
                "of system calls that forbids it",
            ),
        ),
    ],
)
def test_user_namespaces(
    known: bool, refused: str | None, result: Finding
) -> None:
    assert user_namespaces.evaluate_making(known, refused) == result


@pytest.mark.parametrize(
    ("limit", "result"),
    [
        (1024, passed("sysctl user.max_user_namespaces is 1024")),
        (
            1023,
            warned(
                "sysctl user.max_user_namespaces is 1023: each container "
                "needs one or two, and those made inside it come in addition",
                RAISE,
            ),
        ),
        (
            0,
            failed(
                "sysctl user.max_user_namespaces is 0: the kernel makes none",
                RAISE,
            ),
        ),
    ],
)
def test_number_of_user_namespaces(limit: int, result: Finding) -> None:
    assert user_namespaces.evaluate_number(limit) == result


@pytest.mark.parametrize(
    ("index", "name", "allows", "forbids"),
    [
        (0, "kernel.unprivileged_userns_clone (Debian)", 1, 0),
        (
            1,
            "kernel.apparmor_restrict_unprivileged_userns (Ubuntu)",
            0,
            1,
        ),
    ],
)
def test_switches_are_no_obstacle_to_libvirt(
    index: int, name: str, allows: int, forbids: int
) -> None:
    switch = user_namespaces.SWITCHES[index]
    assert os.fspath(switch.path).startswith("/proc/sys/kernel/")
    evaluated = user_namespaces.evaluate_switch
    assert evaluated(switch, allows) == passed(f"sysctl {name} is {allows}")
    assert evaluated(switch, forbids) == warned(
        f"sysctl {name} is {forbids}: no obstacle to libvirt's containers, "
        "for libvirt is root; it counts only for user namespaces that "
        "unprivileged users make, and for those nested in containers",
        f"nothing, unless these are wanted: then set it to {allows}",
    )


@pytest.mark.parametrize(
    ("found", "result"),
    [
        (
            {"max_inotify_instances": 8191},
            warned(
                "sysctl fs.inotify.max_user_instances is 8191, of which each "
                "container may use half, and all of them with the host's "
                "root share it",
                "raise sysctl fs.inotify.max_user_instances to 8192 or more, "
                "in /etc/sysctl.d",
            ),
        ),
        (
            {"max_inotify_instances": 8192},
            passed("sysctl fs.inotify.max_user_instances is 8192"),
        ),
        (
            {"max_user_namespaces": 5},
            warned(
                "sysctl fs.inotify.max_user_instances is not known",
                "see that /proc is mounted, and this is Linux 4.13 or later",
            ),
        ),
    ],
)
def test_shared_limits(found: dict[str, int], result: Finding) -> None:
    assert limits.evaluate(found) == result


@pytest.mark.parametrize(
    ("missing", "result"),
    [
        (
            {"zstd", "xz"},
            warned(
                "not installed: xz, zstd; they unpack archives",
                "install xz-utils, zstd (so named in Debian)",
            ),
        ),
        (
            {"nsenter", "unshare", "tar"},
            failed(
                "not installed: unshare, nsenter, tar",
                "install util-linux, tar (so named in Debian)",
            ),
        ),
        (
            set(),
            passed(
                "unshare, nsenter, sh, cat, rm, tar, gzip, xz, zstd are there"
            ),
        ),
    ],
)
def test_programs(missing: set[str], result: Finding) -> None:
    found = {*programs.NEEDED, *programs.UNPACKING} - missing
    assert programs.evaluate(found) == result


@pytest.mark.parametrize("name", programs.NEEDED)
def test_no_container_without_these(name: str) -> None:
    found = {*programs.NEEDED, *programs.UNPACKING} - {name}
    assert programs.evaluate(found).severity == Severity.ERROR
