# SPDX-License-Identifier: Apache-2.0
"""The demonstration, with the libvirtd at hand."""

import subprocess

import pytest

from tests.functional.capabilities import TOOLS

pytestmark = [
    pytest.mark.needs("containers"),
    pytest.mark.usefixtures("libvirt_connection"),
]


def test_all_that_it_measures_is_as_it_should_be() -> None:
    done = subprocess.run(
        [TOOLS / "demo"], capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.endswith("nothing of it is left.\n")
