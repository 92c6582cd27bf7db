# SPDX-License-Identifier: Apache-2.0
"""Locks of ours do not keep libvirtd from answering."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tests.functional.capabilities import TOOLS
from tests.functional.conftest import reachable_directory

pytestmark = pytest.mark.needs("containers", "private-libvirtd")

#: As ``hook_timeout``; a wait for two of them would be seen.
SECONDS = 8
REFUSED = "another operation has held it for"
CALLS = {"version", "list", "dumpxml", "start", "restart"}


def look(tmp_path: Path, reachable_path: Path, lock: str) -> Any:
    """Hold a lock through start, reboot from inside, restart of libvirtd."""
    directory = tmp_path / lock
    directory.mkdir(0o700)
    program = [sys.executable, "-m", "tests.functional.lock_waits"]
    done = subprocess.run(
        [TOOLS / "private-libvirtd", *program,
         directory, reachable_path / lock, str(SECONDS), lock],
        cwd=TOOLS.parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert {*found["waits"]} == CALLS
    return found


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Return the waits with no lock: the machine may be busy."""
    with reachable_directory() as path:
        found = look(tmp_path_factory.mktemp("usual"), path, "none")
    assert found["said"] == "started"
    return cast("dict[str, float]", found["waits"])


@pytest.mark.parametrize(
    ("lock", "refused"),
    [
        ("instance", True),
        ("container", False),
        ("use", True),
        ("shift", None),
        ("leases", True),
        ("database", None),
        ("failures", None),
    ],
)
def test_all_wait_for_the_time_limit_at_most(
    tmp_path: Path,
    reachable_path: Path,
    usual: dict[str, float],
    lock: str,
    refused: bool | None,
) -> None:
    found = look(tmp_path, reachable_path, lock)
    late = {
        call: (seconds, usual[call])
        for call, seconds in found["waits"].items()
        if seconds >= 1.5 * SECONDS + usual[call]
    }
    assert late == {}
    if refused is not None:
        assert (REFUSED in found["said"]) == refused
        assert (found["said"] == "started") == (not refused)
