# SPDX-License-Identifier: Apache-2.0
"""Containers with network interfaces, in a network of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("containers")

TOP = Path(__file__).parents[2]
LONGEST = 900


@pytest.mark.parametrize("module", ["in_network", "in_libvirt_network"])
def test_containers_with_networks(module: str) -> None:
    """All tests of a module, with a libvirtd in a network of its own."""
    done = subprocess.run(
        [
            *("unshare", "--net", TOP / "tools/private-libvirtd"),
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            TOP / f"tests/functional/{module}.py",
        ],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
