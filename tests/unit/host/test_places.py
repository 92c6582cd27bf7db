# SPDX-License-Identifier: Apache-2.0
"""Places of containers' things, and their filesystems."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_userns.exceptions import NotIdmappableError
from lxc_userns.findings import Finding, Severity
from lxc_userns.host import filesystems, paths
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.rootfs.views import probe

PLACE = (
    "set [lxc_userns] state_path to a directory on ext4, XFS or Btrfs, on "
    "Linux 5.19 or later, and run this as root; or have no overlays"
)
STATE = Path("/var/lib")


def test_state_path() -> None:
    assert paths.evaluate_state_path(STATE, None) == passed(
        "/var/lib keeps trusted.* extended attributes"
    )
    assert paths.evaluate_state_path(
        STATE, "Operation not supported"
    ) == failed(
        "no file with trusted.* extended attributes can be made in /var/lib: "
        "Operation not supported",
        "run this as root, with [lxc_userns] state_path on a writable "
        "filesystem that keeps them: ext4, XFS, Btrfs",
    )


@pytest.mark.parametrize("error", [None, errno.EROFS, errno.EOPNOTSUPP])
def test_state_path_is_tried(error: int | None, tmp_path: Path) -> None:
    def set_attribute(fd: int, name: str, value: bytes) -> None:
        assert name.startswith("trusted.")
        if error is not None:
            raise OSError(error, f"error {error}")

    result = paths.check_state_path(tmp_path / "not" / "yet", set_attribute)
    assert result.severity == (
        Severity.INFO if error is None else Severity.ERROR
    )
    assert str(tmp_path) in result.message
    assert list(tmp_path.iterdir()) == []


def test_run_path_is_looked_at_up_to_the_top(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    below = closed / "below"
    below.mkdir(parents=True)
    below.chmod(0o755)
    closed.chmod(0o700)
    assert paths.check_run_path(below / "not" / "yet") == failed(
        f"users of containers cannot pass through {closed}",
        f"chmod o+x {closed}, or take a path of which all directories have "
        "that mode",
    )


@pytest.mark.parametrize(
    ("check", "mode"),
    [(paths.check_state_path, 0o700), (paths.check_run_path, 0o711)],
)
def test_what_a_start_would_refuse(
    check: Callable[[Path], Finding], mode: int, tmp_path: Path
) -> None:
    path = tmp_path / "ours"
    path.mkdir()
    path.chmod(0o755)
    assert check(path) == failed(
        f"{path} has mode 0755, it may have {mode:04o} at most",
        f"chmod {mode:04o} {path}",
    )
    path.chmod(0o777)  # Others could replace what is to be made in it.
    result = check(path / "not" / "yet")
    assert result.message == (
        f"other users may write to its parent {path}, and could replace not "
        "in it"
    )
    assert result.remedy == f"chmod go-w {path}, or move it elsewhere"
    link = tmp_path / "link"
    link.symlink_to(path)
    assert "is a symbolic link" in check(link).message
    assert [*path.iterdir()] == []


def no_overlay(place: str) -> NotIdmappableError:
    return NotIdmappableError("/x", f"no overlay {place}")


CAN = "can be made with their upper layer in /var/lib"
SPOILT = warned(
    f"{CAN}, but this kernel spoils ACLs of files that are changed if the "
    "image is on XFS as well",
    "have images with ACLs on another filesystem",
)


@pytest.mark.parametrize(
    ("outcome", "strategy", "result"),
    [
        (True, "overlay", passed(CAN)),
        (False, "auto", SPOILT),
        (False, "overlay", SPOILT),
        (
            no_overlay("here"),
            "auto",
            warned(
                "none with an upper layer in /var/lib: no overlay here", PLACE
            ),
        ),
        (
            no_overlay("here; mount it anew"),
            "overlay",
            failed(
                "none with an upper layer in /var/lib: no overlay here; "
                "[lxc_userns] rootfs_strategy is overlay",
                "mount it anew",
            ),
        ),
        (
            OSError(30, "Read-only file system"),
            "chown",
            warned("not tried in /var/lib: Read-only file system", PLACE),
        ),
        (
            OSError("the kernel makes none"),
            "overlay",
            failed(
                "not tried in /var/lib: the kernel makes none; [lxc_userns] "
                "rootfs_strategy is overlay",
                PLACE,
            ),
        ),
    ],
)
def test_overlays(
    outcome: bool | Exception, strategy: str, result: Finding
) -> None:
    assert filesystems.evaluate_overlays(STATE, outcome, strategy) == result


@pytest.mark.parametrize("outcome", [True, OSError(30, "Read-only")])
def test_overlays_are_tried(outcome: bool | Exception) -> None:
    def check(path: str) -> bool:
        assert path == "/"
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    state = Path("/nonexistent/state")
    expected = filesystems.evaluate_overlays(Path("/"), outcome, "auto")
    assert filesystems.check_overlays(state, "auto", check) == expected


def test_filesystems_by_whether_they_can_be_idmapped() -> None:
    findings = [
        probe.Finding("/", "ext4", None),
        probe.Finding("/old", "ext3", "ext3 cannot; mount it as ext4"),
        probe.Finding("/far", "nfs4", "does not answer"),
    ]
    assert filesystems.check_all(lambda: findings) == [
        Finding(
            severity=Severity.INFO,
            code="idmapped mounts on /",
            subject="",
            message="ext4 can be idmapped",
        ),
        Finding(
            severity=Severity.WARN,
            code="idmapped mounts on /old",
            subject="",
            message="ext3 cannot",
            remedy="mount it as ext4",
        ),
        Finding(
            severity=Severity.WARN,
            code="idmapped mounts on /far",
            subject="",
            message="does not answer",
            remedy="keep root filesystems on another filesystem, or take the "
            "strategy chown for them",
        ),
    ]


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_filesystems_that_cannot_be_tried(kind: type[Exception]) -> None:
    def fail() -> list[probe.Finding]:
        raise kind("the kernel makes none")

    assert filesystems.check_all(fail) == [
        Finding(
            severity=Severity.WARN,
            code="idmapped mounts",
            subject="",
            message="not tried without user namespaces: the kernel makes none",
            remedy="run this as root, and see the check of user namespaces",
        )
    ]
