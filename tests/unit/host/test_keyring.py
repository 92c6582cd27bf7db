# SPDX-License-Identifier: Apache-2.0
"""The session keyring that containers inherit."""

from pathlib import Path
from typing import cast

import pytest

from lxc_userns.findings import Finding, Severity
from lxc_userns.host import keyring
from lxc_userns.libvirtd.daemon import Daemon
from lxc_userns.linux.process import Process

ETC = Path(__file__).parents[3] / "etc"
RUN = "8f2d6a1c53e97b408f2d6a1c53e97b40"
DAEMON, UNIT = "libvirtd (process 7)", "libvirtd.service"


def evaluate(
    *known: str, run: str | None = RUN, is_marked: bool = True
) -> Finding:
    return keyring.evaluate(
        DAEMON, UNIT, run, {*map(bytes.fromhex, known)}, is_marked=is_marked
    )


@pytest.mark.parametrize("is_marked", [False, True])
def test_a_keyring_of_its_own(is_marked: bool) -> None:
    """Also if something else was set after the drop-in."""
    found = evaluate("00" * 16, RUN, is_marked=is_marked)
    assert found.severity == Severity.ERROR
    assert found.message.startswith(f"{DAEMON} has a session keyring")
    assert "/etc/systemd/system/libvirtd.service.d" in found.remedy


@pytest.mark.parametrize("run", [RUN, None, "", "rubbish"])
def test_a_keyring_whose_key_a_container_has_taken_out(
    run: str | None,
) -> None:
    assert (
        evaluate("00" * 16, run=run, is_marked=False).severity
        == Severity.ERROR
    )
    assert evaluate(run=run, is_marked=False).severity == Severity.ERROR


@pytest.mark.parametrize("known", [(), ("00" * 16,), (RUN[::-1],)])
def test_none(known: tuple[str, ...]) -> None:
    assert evaluate(*known).severity == Severity.INFO


def test_no_daemon() -> None:
    assert keyring.check(None).severity == Severity.WARN


class FakeProcess:
    """A process that systemd has started, or not."""

    def __init__(self, pid: int, *, service: bool = True) -> None:
        self.pid, self.service = pid, service

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def cgroups(self) -> dict[str, str]:
        return {"": f"/system.slice/{UNIT}" if self.service else "/user.slice"}

    def variable(self, name: str) -> str | None:
        return {"INVOCATION_ID": RUN}.get(name)


def check(service: bool) -> Finding:
    def process_of(pid: int) -> Process:
        return cast(Process, FakeProcess(pid, service=service))

    def read_keys(name: str) -> list[bytes]:
        assert name == "invocation_id"
        return []

    daemon = Daemon("libvirtd", 7, ())
    return keyring.check(daemon, process_of, read_keys)


def test_a_daemon() -> None:
    assert check(service=True).severity == Severity.ERROR
    found = check(service=False)
    assert found.severity == Severity.WARN
    assert "cannot be told" in found.message


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
    assert settings == [
        "[Service]",
        "KeyringMode=inherit",
        f"Environment={'='.join(keyring._MARK)}",
    ]
