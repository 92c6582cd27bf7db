# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns complete``: what bash needs to complete commands."""

from __future__ import annotations

import argparse
from functools import partial

from cliff.complete import CompleteBash, CompleteCommand, CompleteDictionary

from lxc_userns.cli.main import usage_error

#: For bash alone; that of cliff calls what the package bash-completion has.
_HEADER = """\
_{name}()
{{
  local cur words
  COMPREPLY=()
  words=("${{COMP_WORDS[@]}}")
  cur=${{COMP_WORDS[COMP_CWORD]}}

  # Command data:
"""


class _Bash(CompleteBash):
    def get_header(self) -> str:
        """Return the beginning of the function."""
        return _HEADER.format(name=self.escaped_name)


class Complete(CompleteCommand):
    """Print what bash needs to complete commands and their options.

    To have it in every shell: lxc-userns complete
    >/etc/bash_completion.d/lxc-userns, or without the package
    bash-completion: eval "$(lxc-userns complete)" in ~/.bashrc.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return a parser without arguments."""
        parser = argparse.ArgumentParser(
            prog=prog_name, description=self.get_description()
        )
        parser.error = partial(  # type: ignore[method-assign]
            usage_error, parser
        )
        return parser

    def get_epilog(self) -> str:
        """Return no text."""
        return ""

    def get_actions(self, command: list[str]) -> list[argparse.Action]:
        """Return the options of a command that it tells of."""
        return [
            each
            for each in super().get_actions(command)
            if each.help != argparse.SUPPRESS
        ]

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Print it."""
        found = CompleteDictionary()
        for name, _ in self.app.command_manager:
            command = name.split()
            found.add_command(command, self.get_actions(command))
        shell = _Bash(self.app.NAME, self.app.stdout)
        shell.write(found.get_commands(), found.get_data())
        return 0
