# SPDX-License-Identifier: Apache-2.0
"""Verbs in a service whose threads are eventlet's."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.functional.capabilities import TOOLS

pytestmark = pytest.mark.needs("private-libvirtd", "containers")


@pytest.fixture(scope="module")
def found() -> Any:
    """Let such a service do all that it does, beside a libvirtd of its own."""
    module = "tests.functional.green_threads"
    # Not in the environment itself, where oslo.privsep would take it.
    eventlet = f"{sys.prefix}/share/eventlet"
    done = subprocess.run(
        [TOOLS / "private-libvirtd", sys.executable, "-W", "ignore",
         "-m", module],
        cwd=TOOLS.parent,
        env={**os.environ, "PYTHONPATH": eventlet},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["idmapped", "archive", "chown"])
def test_each_verb_by_several_at_once(found: Any, kind: str) -> None:
    assert found[kind] == [
        "allocated",
        "prepared",
        "running",
        "running",
        "stopped",
        "stopped",
        "unmounted",
        "unknown",
    ]


@pytest.mark.parametrize("lock", ["instance", "leases"])
def test_others_run_while_one_waits(found: Any, lock: str) -> None:
    """Another process has the lock for a second; a tick takes 10 ms."""
    assert found[lock] > 20
