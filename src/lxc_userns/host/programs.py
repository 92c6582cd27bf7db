# SPDX-License-Identifier: Apache-2.0
"""Programs that this package executes."""

from __future__ import annotations

import shutil
from collections.abc import Collection

from lxc_userns.findings import Finding
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.linux import programs

#: Without one of these no container starts, or none goes; with the Debian
#: package that has it.
NEEDED = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "sh": "dash",
    "cat": "coreutils",
    "rm": "coreutils",
}
#: These are for archives.
UNPACKING = {
    "tar": "tar",
    "gzip": "gzip",
    "xz": "xz-utils",
    "zstd": "zstd",
}


def check() -> Finding:
    """Return whether the programs are installed where they are looked for."""
    return evaluate(
        {
            name
            for name in (*NEEDED, *UNPACKING)
            if shutil.which(name, path=programs.ENVIRONMENT["PATH"])
        }
    )


def evaluate(found: Collection[str]) -> Finding:
    """Return whether all programs are there.

    :param found: those that are.
    """
    everything = {**NEEDED, **UNPACKING}
    missing = [name for name in everything if name not in found]
    if not missing:
        return passed(f"{', '.join(everything)} are there")
    message = f"not installed: {', '.join(missing)}"
    packages = dict.fromkeys(everything[name] for name in missing)
    remedy = f"install {', '.join(packages)} (so named in Debian)"
    if any(name in NEEDED for name in missing):
        return failed(message, remedy)
    return warned(f"{message}; they unpack archives", remedy)
