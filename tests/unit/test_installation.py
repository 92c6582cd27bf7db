# SPDX-License-Identifier: Apache-2.0
"""Names that an index of packages is asked for."""

import itertools
import re
import tomllib
from pathlib import Path

TOP = Path(__file__).parents[2]

_INSTALL = re.compile(
    r"\b(?:pip[0-9.]*|pipx|uv|poetry|conda|apt|apt-get|dnf|yum|zypper)\b"
    r"[^`\n]*?\b(?:install|add)\b([^`\n]*)"
)
_OURS = re.compile(r"lxc[-_.]userns", re.IGNORECASE)


def installed_by_name(text: str) -> list[str]:
    """Names of ours that a text has installed from an index."""
    joined = text.replace("\\\n", " ")
    words = [
        word for each in _INSTALL.findall(joined) for word in each.split()
    ]
    return [word.strip("\"'") for word in words
            if _OURS.match(word.strip("\"'"))]  # fmt: skip


def test_nothing_is_installed_that_is_nowhere() -> None:
    """Another owner of our names would be root on compute hosts."""
    files = [
        path
        for pattern in ("*.rst", "*.md", "*.toml", "Makefile")
        for path in TOP.glob(pattern)
    ]
    for directory in (
        "doc/source", "etc", "packaging", "releasenotes/notes", "src", "tools",
    ):  # fmt: skip
        files += [
            path
            for path in (TOP / directory).rglob("*")
            if path.is_file()
            and path.suffix not in (".pyc", ".svg")
            and "egg-info" not in str(path)
        ]
    assert len(files) > 200
    for path in files:
        found = installed_by_name(path.read_text(errors="replace"))
        assert found == [], path


def test_names_that_an_index_is_asked_for() -> None:
    for path in (TOP, TOP / "packaging/lxc-userns-nova"):
        project = tomllib.loads((path / "pyproject.toml").read_text())
        listed = [
            *project["build-system"]["requires"],
            *project["project"].get("dependencies", ()),
            *itertools.chain.from_iterable(
                project["project"].get("optional-dependencies", {}).values()
            ),
            *itertools.chain.from_iterable(
                project.get("dependency-groups", {}).values()
            ),
        ]
        assert [each for each in listed if _OURS.match(each)] == []


def test_nova_is_of_the_releases_that_were_tested() -> None:
    """Whichever way it is asked for."""
    ours, shim = (
        tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))
        for path in (TOP, TOP / "packaging/lxc-userns-nova")
    )
    asked_for = [
        *shim["project"]["dependencies"],
        *ours["project"]["optional-dependencies"]["nova"],
        *ours["dependency-groups"]["bench"],
        *ours["dependency-groups"]["test-nova"],
    ]
    novas = [each for each in asked_for if re.match(r"nova\b", each)]
    constraints = (TOP / "tests/nova/constraints").glob("*.txt")
    releases = sorted(int(path.stem) for path in constraints)
    assert novas == [f"nova>={releases[0]}.0,<{releases[-1] + 1}"] * 4


def test_what_is_found_in_a_text() -> None:
    for line in (
        "pip install lxc-userns lxc-userns-nova",
        "    /opt/x/bin/pip install -U 'lxc-userns[nova]'",
        "python3 -m pip install lxc_userns==0.1.0",
        "pip install \\\n    lxc-userns",
        "``apt-get install lxc-userns``",
        "uv add lxc-userns",
    ):
        assert len(installed_by_name(line)) in (1, 2), line
    for line in (
        "pip install .",
        "pip install --no-deps ./packaging/lxc-userns-nova",
        "pip install /srv/lxc_userns-0.1.0-py3-none-any.whl",
        "apt-get install git make",
    ):
        assert installed_by_name(line) == []
