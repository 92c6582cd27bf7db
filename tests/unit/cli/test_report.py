# SPDX-License-Identifier: Apache-2.0
"""Checks of the host, as somebody reads them."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from lxc_userns.cli import host, main, report
from lxc_userns.findings import Finding, Severity

GOOD = Finding(
    severity=Severity.INFO, code="root", subject="", message="this is root"
)
WEAK = Finding(
    severity=Severity.WARN,
    code="shared limits",
    subject="",
    message="sysctl fs.inotify.max_user_instances is 128, of which each may "
    "use half",
    remedy="raise sysctl fs.inotify.max_user_instances to 8192, in "
    "/etc/sysctl.d",
)
BAD = Finding(
    severity=Severity.ERROR,
    code="libvirt",
    subject="",
    message="does not answer",
    remedy="start it",
)
MOUNTS = [
    *(
        Finding(
            severity=Severity.INFO,
            code=f"idmapped mounts on {point}",
            subject="",
            message="ext4 can be idmapped",
        )
        for point in ("/", "/a", "/b", "/c", "/d")
    ),
    Finding(
        severity=Severity.WARN,
        code="idmapped mounts on /nfs",
        subject="",
        message="nfs cannot",
        remedy="take chown",
    ),
]


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_one_line_for_each_kind_of_filesystem() -> None:
    merged = report.merge_mounts([GOOD, *MOUNTS])
    assert merged == [
        GOOD,
        Finding(
            severity=Severity.INFO,
            code="idmapped mounts",
            subject="",
            message="ext4 can be idmapped (/, /a, /b and 2 more)",
        ),
        Finding(
            severity=Severity.WARN,
            code="idmapped mounts",
            subject="",
            message="nfs cannot (/nfs)",
            remedy="take chown",
        ),
    ]


def test_remedies_are_below() -> None:
    lines = [*report.render([GOOD, WEAK], colours=False)]
    assert lines == [
        "PASS  root: this is root",
        "WARN  shared limits: sysctl fs.inotify.max_user_instances is",
        "      128, of which each may use half",
        "      -> raise sysctl fs.inotify.max_user_instances to 8192,",
        "         in /etc/sysctl.d",
        "",
        "WARN  containers run in user namespaces here, not all of "
        "them or not as well as they could (1 of 2 checks)",
    ]


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([GOOD], "PASS  this host is ready (1 checks)"),
        ([GOOD, WEAK, BAD], "FAIL  no container runs in a user namespace"),
    ],
)
def test_a_verdict_ends_it(checks: list[Finding], verdict: str) -> None:
    assert [*report.render(checks, colours=False)][-1].startswith(verdict)


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "0"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours(environment: dict[str, str], colours: bool) -> None:
    assert report.wants_colours(environment) == colours
    line = next(report.render([BAD], colours=colours))
    assert ("\x1b[31mFAIL\x1b[0m" in line) == colours


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Check(host.Check):
    """Check of a host on which this is found."""

    def look(self) -> list[Finding]:
        return [GOOD, WEAK, BAD, *MOUNTS]


def make() -> main.LxcUserns:
    """The program with that check."""
    program = main.LxcUserns()
    program.command_manager.add_command("host check", Check)
    return program


def call(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    file = tmp_path / "empty.conf"
    file.touch()
    argv = ["--config-file", str(file), "host", "check", *arguments]
    with redirect_stdout(Terminal()) as out:
        code = main.main(argv, make)
    return code, out.getvalue()


def test_on_a_terminal(tmp_path: Path) -> None:
    code, out = call(tmp_path)
    assert code == 1
    assert out.startswith("\x1b[32mPASS\x1b[0m  root: this is root\n")
    assert "\n      -> start it\n" in out
    assert "| root" not in out


def test_to_a_program(tmp_path: Path) -> None:
    code, out = call(tmp_path, "-f", "json")
    rows = json.loads(out)
    assert code == 1
    assert len(rows) == 3 + len(MOUNTS)
    assert rows[3] == {
        "check": "idmapped mounts on /",
        "status": "PASS",
        "message": "ext4 can be idmapped",
        "remedy": "",
    }
