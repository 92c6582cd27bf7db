# SPDX-License-Identifier: Apache-2.0
"""Files of the Debian packages; ``make test-deb`` builds and installs them."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
DEBIAN = TOP / "packaging/debian"
SCRIPTS = ("lxc-userns.prerm", "lxc-userns.postrm")
#: Names that Debian has for distributions of Python, where it has others.
NAMES = {"libvirt-python": "libvirt"}


def test_both_are_of_the_same_version() -> None:
    (first, *_) = (DEBIAN / "changelog").read_text().splitlines()
    found = re.fullmatch(r"lxc-userns \((.+)\) unstable; urgency=\w+", first)
    assert found is not None
    assert found[1] == (TOP / "VERSION").read_text().strip()


def test_what_it_imports_is_there_while_it_is_built() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    control = (DEBIAN / "control").read_text().split("\nPackage:")[0]
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=]", requirement)[0]
        package = f"python3-{NAMES.get(name, name)}"
        assert f" {package},\n" in control


@pytest.mark.allow_subprocess
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_in_order(name: str) -> None:
    script = DEBIAN / name
    subprocess.run(["sh", "-n", script], check=True)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    assert "set -e" in lines
    # Debhelper's part comes last: what refuses comes before.
    assert lines[-1] == "#DEBHELPER#"


@pytest.mark.parametrize("name", ["rules", *SCRIPTS])
def test_no_place_of_the_build_is_in_them(name: str) -> None:
    assert "/usr/src" not in (DEBIAN / name).read_text()


def test_rules_can_be_executed() -> None:
    assert (DEBIAN / "rules").stat().st_mode & 0o111
