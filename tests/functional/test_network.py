# SPDX-License-Identifier: Apache-2.0
"""Containers with network interfaces, in a network of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("containers")

TOP = Path(__file__).parents[2]
LONGEST = 900


def test_containers_on_a_bridge() -> None:
    """All tests of ``in_network.py``, with a libvirtd in that network."""
    done = subprocess.run(
        [
            *("unshare", "--net", TOP / "tools/private-libvirtd"),
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            TOP / "tests/functional/in_network.py",
        ],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
