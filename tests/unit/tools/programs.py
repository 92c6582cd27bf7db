# SPDX-License-Identifier: Apache-2.0
"""Programs in ``tools/``, whose names no module can have."""

import runpy
from pathlib import Path
from types import SimpleNamespace

TOOLS = Path(__file__).parents[3] / "tools"


def load_program(name: str) -> SimpleNamespace:
    """Return what a program defines; it is not run."""
    return SimpleNamespace(**runpy.run_path(str(TOOLS / name)))


def write_program(directory: Path, name: str, script: str) -> None:
    """Make a program of a shell script, to be found in a ``PATH``."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
