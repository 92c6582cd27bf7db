# SPDX-License-Identifier: Apache-2.0
"""Installation of a file beside the packages, beyond pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "lxc_userns_nova.pth"


class BuildPy(build_py):
    """Builds the file that Python reads when it starts, too."""

    def run(self):
        """Build everything."""
        super().run()
        # An editable installation has a finder of its own.
        if not self.editable_mode:
            self.copy_file(PTH, str(Path(self.build_lib, PTH)))

    def get_source_files(self):
        """Return what a source archive has."""
        return [*super().get_source_files(), PTH]


setup(cmdclass={"build_py": BuildPy})
