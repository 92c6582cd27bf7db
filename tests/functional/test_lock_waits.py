# SPDX-License-Identifier: Apache-2.0
"""Locks of ours do not keep libvirtd from answering."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.capabilities import TOOLS

pytestmark = pytest.mark.needs("containers", "private-libvirtd")

#: As ``hook_timeout``; a wait for two of them would be seen.
SECONDS = 8
REFUSED = "another operation has held it for"


def test_all_wait_for_the_time_limit_at_most(
    tmp_path: Path, reachable_path: Path
) -> None:
    """Start, reboot from inside and restart of libvirtd under each lock."""
    directory = tmp_path / "host"
    directory.mkdir(0o700)
    program = [sys.executable, "-m", "tests.functional.lock_waits"]
    done = subprocess.run(
        [TOOLS / "private-libvirtd", *program,
         directory, reachable_path / "run", str(SECONDS)],
        cwd=TOOLS.parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert len(found) == 8
    # The machine may be busy: so long it takes with no lock.
    usual = found["none"]["waits"]
    late = {
        f"{lock}, {call}": (seconds, usual[call])
        for lock, each in found.items()
        for call, seconds in each["waits"].items()
        if seconds >= 1.5 * SECONDS + usual[call]
    }
    assert late == {}
    assert all(len(each["waits"]) == 5 for each in found.values())
    refused = {name for name in found if REFUSED in found[name]["said"]}
    assert {"instance", "use", "leases"} <= refused, found
    free = {name for name in found if found[name]["said"] == "started"}
    assert {"none", "container"} <= free, found
