# SPDX-License-Identifier: Apache-2.0
"""Reference of the commands, from the commands themselves.

``.. command-line:: container *`` describes the commands of that name. cliff's
own directive looks for them among the entry points of installed packages;
ours are known to the program alone.
"""

from __future__ import annotations

from fnmatch import fnmatch

from cliff.command import Command
from cliff.sphinxext import AutoprogramCliffDirective
from sphinx.application import Sphinx

from lxc_userns.cli.main import LxcUserns


class CommandLine(AutoprogramCliffDirective):
    """Describe the commands whose name matches a pattern."""

    final_argument_whitespace = True

    def _load_app(self) -> None:
        """Describe no application, but commands."""

    def _load_commands(self) -> dict[str, type[Command]]:
        manager = LxcUserns().command_manager
        return {
            name: self._load_command(manager, name)
            for name in manager.commands
            if fnmatch(name, self.arguments[0])
        }


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
