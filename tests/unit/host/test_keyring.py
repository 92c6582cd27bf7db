# SPDX-License-Identifier: Apache-2.0
"""The session keyring that containers inherit."""

from pathlib import Path

import pytest

from lxc_userns.host import keyring
from lxc_userns.host.check import Result

ETC = Path(__file__).parents[3] / "etc"
RUN = "8f2d6a1c53e97b408f2d6a1c53e97b40"
DAEMON, UNIT = "libvirtd (process 7)", "libvirtd.service"


def judge(
    *known: str, unit: str | None = UNIT, run: str | None = RUN
) -> Result:
    return keyring.judge(DAEMON, unit, run, {*map(bytes.fromhex, known)})


def test_a_keyring_of_its_own() -> None:
    found = judge("00" * 16, RUN)
    assert found.status == "FAIL"
    assert found.message.startswith(f"{DAEMON} has a session keyring")
    assert "/etc/systemd/system/libvirtd.service.d" in found.remedy


@pytest.mark.parametrize("known", [(), ("00" * 16,), (RUN[::-1],)])
def test_none(known: tuple[str, ...]) -> None:
    assert judge(*known).status == "PASS"


@pytest.mark.parametrize(
    ("unit", "run"), [(None, RUN), (UNIT, None), (UNIT, ""), (UNIT, "rubbish")]
)
def test_what_cannot_be_told(unit: str | None, run: str | None) -> None:
    found = judge(RUN, unit=unit, run=run)
    assert found.status == "WARN"
    assert "cannot be told" in found.message


def test_no_daemon() -> None:
    assert keyring.check(None).status == "WARN"


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ({"": "/system.slice/virtlxcd.service"}, "virtlxcd.service"),
        ({"name=systemd": "/system.slice/libvirtd.service"}, UNIT),
        ({"": "/", "name=systemd": "/system.slice/libvirtd.service"}, UNIT),
        ({"cpu": "/system.slice/libvirtd.service"}, None),
        ({"": "/user.slice/user-0.slice/session-1.scope"}, None),
        ({}, None),
    ],
)
def test_units(cgroups: dict[str, str], unit: str | None) -> None:
    assert keyring.find_unit(cgroups) == unit


def test_the_drop_in() -> None:
    lines = (ETC / "systemd/keyring.conf").read_text().splitlines()
    settings = [line for line in lines if line and line[0] != "#"]
    assert settings == ["[Service]", "KeyringMode=inherit"]
