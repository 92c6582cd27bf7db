# SPDX-License-Identifier: Apache-2.0
"""``domain audit`` of files, as a user calls it."""

import csv
import io
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.functional.command_line import CommandLine, call
from tests.unit.audit.documents import (
    VIRSH,
    VIRT_MANAGER,
    domain,
    filesystem,
    id_map,
)

COLUMNS = ["code", "severity", "message", "remedy", "xpath", "line"]
WARN = domain(devices=filesystem("/srv/x"))
HIGH = domain(idmap=id_map("0:1000:65536"))


@pytest.fixture
def cli(tmp_path: Path, reachable_path: Path) -> CommandLine:
    """The program; no libvirtd is needed."""
    return CommandLine.make(tmp_path, reachable_path / "run")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "domain.xml"


@pytest.mark.parametrize(
    ("xml", "options", "code"),
    [
        (domain(), (), 0),
        (WARN, (), 0),
        (WARN, ("--severity", "WARN"), 1),
        (WARN, ("--severity", "warn"), 1),
        (HIGH, (), 1),
        (HIGH, ("--severity", "high"), 1),
        (HIGH, ("--severity", "ERROR"), 0),
        (HIGH, ("--severity", "Critical"), 0),
        (domain(idmap=""), ("--severity", "CRITICAL"), 1),
    ],
)
def test_exit_codes(
    cli: CommandLine, file: Path, xml: str, options: list[str], code: int
) -> None:
    file.write_text(xml)
    result = cli("domain", "audit", file, *options, "-f", "json")
    assert (result.code, result.err) == (code, "")
    assert bool(json.loads(result.out)) == (xml != domain())


def test_formats(cli: CommandLine, file: Path) -> None:
    file.write_text(VIRT_MANAGER)
    shown = {
        name: cli("domain", "audit", file, "-f", name)
        for name in ("json", "table", "value", "yaml", "csv")
    }
    assert {each.code for each in shown.values()} == {1}
    assert {each.err for each in shown.values()} == {""}
    findings = json.loads(shown["json"].out)
    assert [(each["code"], each["severity"]) for each in findings] == [
        ("no-idmap", "CRITICAL"),
        ("host-device", "HIGH"),
        ("no-seclabel", "WARN"),
    ]
    assert list(findings[1]) == COLUMNS
    assert findings[1]["xpath"] == "/domain/devices/hostdev"
    assert findings[1]["line"] == 32
    assert "/dev/ttyS0" in findings[1]["message"]
    table = shown["table"].out
    assert "| HIGH     | host-device |   32 |" in table
    assert "xpath" not in table
    lines = shown["value"].out.splitlines()
    assert lines[0].startswith("no-idmap CRITICAL the domain has no ID maps")
    assert lines[0].endswith(" /domain 2")
    rows = [*csv.reader(io.StringIO(shown["csv"].out))]
    assert rows[0] == COLUMNS
    assert "severity: HIGH" in shown["yaml"].out


def test_columns(cli: CommandLine, file: Path) -> None:
    file.write_text(WARN)
    result = cli("domain", "audit", file, "-c", "xpath", "-f", "value")
    assert result.out == "/domain/devices/filesystem[2]\n"
    result = cli("domain", "audit", file, "-c", "xpath")
    assert "| /domain/devices/filesystem[2] |" in result.out


def test_standard_input(cli: CommandLine) -> None:
    result = cli("domain", "audit", "-", "-f", "json", input=WARN.encode())
    assert [each["code"] for each in result.json()] == ["writable-host-path"]
    result = cli("domain", "audit", "-", "-f", "sarif", input=WARN.encode())
    (found,) = result.json()["runs"][0]["results"]
    assert set(found["locations"][0]) == {"logicalLocations"}


def test_sarif(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "my domain.xml").write_text(HIGH)
    arguments = ("domain", "audit", "my domain.xml", "-f", "sarif")
    result = cli(*arguments, "-c", "code", cwd=tmp_path)
    assert (result.code, result.err) == (1, "")
    log = json.loads(result.out)
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["version"] == metadata.version("lxc-userns")
    for found in run["results"]:
        (location,) = found["locations"]
        assert location["physicalLocation"]["artifactLocation"] == {
            "uri": "my%20domain.xml"
        }
        assert location["physicalLocation"]["region"]["startLine"] in (6, 7)
        assert driver["rules"][found["ruleIndex"]]["id"] == found["ruleId"]


def test_sarif_is_for_this_command_alone(cli: CommandLine) -> None:
    result = cli("config", "check", "-f", "sarif")
    assert result.code == 2
    assert "invalid choice: 'sarif'" in result.err
    code = (
        "from importlib.metadata import entry_points as e;"
        "print(*(x.name for x in e(group='cliff.formatter.list')))"
    )
    argv = [sys.executable, "-c", code]
    assert "sarif" not in subprocess.check_output(argv, text=True).split()


def test_a_file_without_a_slash(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "web").write_text(VIRSH)
    result = cli("domain", "audit", "web", "-f", "json", cwd=tmp_path)
    # The view is not below this configuration's run_path.
    codes = [each["code"] for each in json.loads(result.out)]
    assert codes == ["host-path", "writable-host-path"]


def test_views_are_below_the_configured_run_path(
    cli: CommandLine, file: Path
) -> None:
    file.write_text(domain(root=filesystem(f"{cli.run}/web/root", "/")))
    assert cli("domain", "audit", file).code == 0
    file.write_text(domain(root=filesystem("/run/lxc-userns/web/root", "/")))
    assert cli("domain", "audit", file).code == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "domain XML: no element found"),
        (b"<domain", "domain XML: "),
        (b"\xff", "not UTF-8 text"),
        (b"<network/>", "domain XML: root element 'network'"),
        (b"<domain type='kvm'/>", "type 'kvm': expected 'lxc'"),
        (
            b'<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
            b"<domain type='lxc'><name>&a;</name></domain>",
            "domain XML: has a document type",
        ),
    ],
)
def test_what_is_no_domain(
    cli: CommandLine, file: Path, content: bytes, message: str
) -> None:
    file.write_bytes(content)
    result = cli("domain", "audit", file)
    assert message in result.error()
    assert result.out == ""
    result = cli("domain", "audit", "-", "-f", "sarif", input=content)
    assert message in result.error()
    assert result.out == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/absent.xml", "/absent.xml: No such file or directory"),
        ("/etc", "/etc: Is a directory"),
    ],
)
def test_no_file(cli: CommandLine, name: str, message: str) -> None:
    assert cli("domain", "audit", name).error() == message


@pytest.mark.parametrize(
    "arguments",
    [(), ("-", "--severity", "bad"), ("-", "-f", "bad"), ("a", "b")],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = call("domain", "audit", *arguments)
    assert (result.code, result.out) == (2, "")
    assert "error: " in result.err.splitlines()[-1]
