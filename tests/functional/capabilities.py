# SPDX-License-Identifier: Apache-2.0
"""Capabilities of this machine, as ``tools/capabilities`` finds them."""

import functools
import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
#: The machine of ``tools/in-vm``: made to have them all, and thrown away.
IN_VM = "IN_VM_RESULTS" in os.environ


@functools.cache
def missing(name: str) -> str:
    """Say in one line why a capability is missing; ``""`` if it is there."""
    if IN_VM:
        return ""
    result = subprocess.run(
        [TOOLS / "capabilities", name],
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert result.returncode in (0, 1), f"tools/capabilities {name} failed"
    return result.stdout.strip()


def require(*names: str) -> None:
    """Skip the test if the machine lacks one of the capabilities."""
    for name in names:
        if missing(name):
            pytest.skip(missing(name))


def in_private_libvirtd() -> bool:
    """Tell whether ``lxc:///`` is a libvirtd that is there for us alone.

    In the machine of ``tools/in-vm`` the system's is.
    """
    if IN_VM:
        return True
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(
        line.split()[4] == "/run/libvirt" and " private-libvirtd " in line
        for line in mounts
    )
