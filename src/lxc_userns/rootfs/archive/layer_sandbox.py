# SPDX-License-Identifier: Apache-2.0
"""The processes around tar that extracts a layer over those below.

Like those of :mod:`~lxc_userns.rootfs.archive.sandbox`, confined as those that
pack a tree: there are no files of the host but programs, to which links of
layers below could lead. What a layer hides of those below is removed before
anything of it is extracted.
"""

from __future__ import annotations

# Loaded now: once it is confined, nothing more can be.
import json  # noqa: F401 - ipc loads it late
import os
import re  # noqa: F401 - tar_listing loads it late

from lxc_userns.linux.fd import open_file
from lxc_userns.rootfs.archive import pack_sandbox, sandbox
from lxc_userns.rootfs.archive.whiteouts import Hidden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Layer(sandbox.Extraction):
    """tar at work on a layer: it lists its members, then extracts them."""

    def run(self) -> dict[str, Any]:
        """Remove what it hides, and extract it."""
        hidden = Hidden(self.job["view"], self._remove_directory)
        result = self.read_through("lister", hidden.feed)
        ends = result["tar"], result["decompressor"], result["exceeded"]
        if ends == (0, 0, None):
            os.lseek(self.job["archive"], 0, os.SEEK_SET)
            result = self.read_through("tar", self.listing.feed)
        return {**result, "whiteout_files": hidden.whiteouts}

    def _remove_directory(self, parent: int, name: bytes) -> None:
        os.fchdir(parent)
        program, argv = self.job["remover"]
        with open_file(".", os.O_RDONLY | os.O_DIRECTORY) as unused:
            command = program, (*argv, os.fsdecode(name))
            child = sandbox.Child(command, unused, 2, self.job["memory"])
        os.fchdir(self.job["view"])
        if child.wait():
            raise OSError(None, "a directory cannot be removed")


def main() -> None:
    """Keep an extraction."""
    sandbox.keep(lambda job: Layer(job).run(), pack_sandbox.confine)
