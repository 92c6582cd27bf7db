# SPDX-License-Identifier: Apache-2.0
"""systemd, as far as it keeps containers and their limits."""

from pathlib import Path

import pytest

from lxc_userns.linux import cgroup_files, systemd

PATHS = (
    "run/systemd/system",
    "run/dbus/system_bus_socket",
    "usr/share/dbus-1/system-services/org.freedesktop.machine1.service",
)


def test_machined_needs_systemd_and_a_bus(tmp_path: Path) -> None:
    for path in PATHS:
        (tmp_path / path).mkdir(parents=True)
    assert systemd.has_machined(str(tmp_path))
    for path in PATHS:
        (tmp_path / path).rmdir()
        assert not systemd.has_machined(str(tmp_path))
        (tmp_path / path).mkdir()


def test_properties_hold_until_the_next_boot() -> None:
    ran: list[list[str]] = []

    def run(argv: list[str], *, timeout: float) -> None:
        assert timeout > 0
        ran.append(argv)

    systemd.set_properties("a.scope", ["TasksMax=1"], run)
    assert ran == [
        ["systemctl", "set-property", "--runtime", "a.scope", "TasksMax=1"]
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("no such unit"), "unit a.scope: no such unit"),
        (FileNotFoundError(2, "not there", "systemctl"), "not there"),
    ],
)
def test_a_unit_that_is_refused(error: OSError, said: str) -> None:
    def run(_argv: list[str], **_: object) -> None:
        raise error

    with pytest.raises(OSError, match=said):
        systemd.set_properties("a.scope", ["TasksMax=1"], run)


def test_a_value_that_is_refused_is_told_with_its_file() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        cgroup_files.write("/dev", "full", "1")
    assert caught.value.filename == "/dev/full"
