# SPDX-License-Identifier: Apache-2.0
"""The processes around tar that packs a tree.

Like those of :mod:`~lxc_userns.rootfs.archive.sandbox`, in a sandbox that is
narrower: of the files of the host it has the programs alone, and no network.
Of the tree there is a read-only mount that hangs nowhere, tar's working
directory, and of the archive the descriptor that is written to.
"""

from __future__ import annotations

# Loaded now: once it is confined, nothing more can be.
import json  # noqa: F401 - ipc loads it late
import os

from lxc_userns.linux import namespaces, pipes, program_root
from lxc_userns.rootfs.archive import sandbox
from lxc_userns.rootfs.archive.contents import Contents, ContentsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def confine() -> None:
    """Leave the host's files and network behind."""
    namespaces.unshare(namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC)
    program_root.enter()


def _create(job: dict[str, Any]) -> dict[str, Any]:
    """Let tar, and what compresses for it, come to their ends."""
    os.fchdir(job["view"])
    try:
        contents = Contents(job["view"])
    except ContentsError as err:
        return {"refused": str(err)}
    left_out = contents.devices + contents.absent
    children = [*_start(job, left_out)]
    tar, *compressor = [child.wait() for child in children]
    return {
        "tar": tar,
        "compressor": sum(compressor),
        "devices": len(contents.devices),
        "nodes": len(contents.nodes),
        "sockets": len(contents.sockets),
    }


def _start(job: dict[str, Any], left_out: list[str]) -> list[sandbox.Child]:
    program, argv = job["tar"]
    excluded = [f"--exclude={name}" for name in left_out]
    command = program, (*argv, *excluded, ".")
    memory, target = job["memory"], job["archive"]
    empty, end = os.pipe()
    os.close(end)
    if job["compressor"] is None:
        return [sandbox.Child(command, empty, target, memory)]
    fed, sink = pipes.make_wide()
    children = [
        sandbox.Child(command, empty, sink, memory),
        sandbox.Child(job["compressor"], fed, target, memory),
    ]
    # Else one would not hear of the other's end.
    os.close(fed)
    os.close(sink)
    return children


def main() -> None:
    """Keep a creation."""
    sandbox.keep(_create, confine)
