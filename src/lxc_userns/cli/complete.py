# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns complete``: what bash needs to complete commands."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import TextIO

from cliff.complete import CompleteBash, CompleteCommand, CompleteDictionary

from lxc_userns.cli.main import usage_error

#: For bash alone; that of cliff calls what the package bash-completion has.
_HEADER = """\
_{name}()
{{
  local cur words command offered option value count word key each
  COMPREPLY=()
  words=("${{COMP_WORDS[@]}}")
  cur=${{COMP_WORDS[COMP_CWORD]#=}}

  # Command data:
"""
#: That of cliff knows neither values of options nor names of containers.
_TRAILER = """
  command="" offered=${cmds} option="" value="" count=0
  for word in "${words[@]:1:COMP_CWORD-1}"
  do
    if [[ ${word} == = ]] ; then
      value=next  # To bash --option=value are three words.
    elif [[ -n ${value} ]] ; then
      value=""
    elif [[ ${word} == -* ]] ; then
      # bash would evaluate what is in brackets of a variable's name.
      option=""
      [[ ${word} =~ ^-[a-z-]+$ ]] && option=${word}
      [[ " ${valued} " == *" ${word} "* ]] && value=next
    elif [[ ${offered} == -* ]] ; then
      count=$((count + 1))
    elif [[ ${word} =~ ^[a-z-]+$ ]] ; then
      command=${command:+${command}_}${word//-/_}
      key=cmds_${command}
      offered=${!key}
    else
      return 0
    fi
  done

  key=values_${command}_${option//-/_}
  if [[ -n ${value} && -n ${!key} ]] ; then
    COMPREPLY=( $(compgen -W "${!key}" -- "${cur}") )
  elif [[ -z ${value} && ${offered} != -* ]] ; then
    COMPREPLY=( $(compgen -W "${offered}" -- "${cur}") )
  elif [[ -z ${value} && ${cur} == -* ]] ; then
    COMPREPLY=( $(compgen -W "${offered}" -- "${cur}") )
  elif [[ -z ${value} && ( " ${of_all} " == *" ${command} "* ||
          ( " ${of_one} " == *" ${command} "* && ${count} == 0 ) ) ]] ; then
    while read -r each
    do
      # A domain of others can have any name, which is not to be evaluated,
      # and not to become an option.
      if [[ ${each} == "${cur}"* && ${each} =~ ^[[:alnum:]][[:alnum:]._-]*$ ]]
      then
        COMPREPLY+=("${each}")
      fi
    done < <("${COMP_WORDS[0]}" container list -f value -c name 2>/dev/null)
  else
    # Others can give a file any name: quoted, it is a name to the shell.
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "${cur}")
  fi
  return 0
}
"""


class _Bash(CompleteBash):
    def __init__(
        self, name: str, output: TextIO, variables: Mapping[str, str]
    ) -> None:
        super().__init__(name, output)
        self._variables = variables

    def get_header(self) -> str:
        """Return the beginning of the function."""
        return _HEADER.format(name=self.escaped_name)

    def get_trailer(self) -> str:
        """Return the rest of the function, and what calls it."""
        lines = [f"  {key}='{it}'\n" for key, it in self._variables.items()]
        call = f"complete -F _{self.escaped_name} {self.name}\n"
        return "".join((*lines, _TRAILER, call))


class Complete(CompleteCommand):
    """Print what bash needs to complete commands, options and containers.

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

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Print it."""
        found = CompleteDictionary()
        variables = {"of_one": "", "of_all": ""}
        valued = {"--config-file"}
        for name, _ in self.app.command_manager:
            command, key = name.split(), name.replace(" ", "_")
            parser = self._make_parser(command)
            options = [
                each
                for each in parser._get_optional_actions()
                if each.help != argparse.SUPPRESS
            ]
            found.add_command(command, options)
            for each in options:
                if each.nargs != 0:
                    valued.update(each.option_strings)
                for option in each.option_strings if each.choices else ():
                    words = " ".join(map(str, each.choices or ()))
                    variable = f"values_{key}_{option}".replace("-", "_")
                    variables[variable] = words
            first = [each.dest for each in parser._get_positional_actions()]
            # Of one that is run there is none yet.
            if command[0] == "container" and command != ["container", "run"]:
                variables["of_one"] += f"{key} " * (first[:1] == ["name"])
                variables["of_all"] += f"{key} " * (first[:1] == ["names"])
        variables["valued"] = " ".join(sorted(valued))
        shell = _Bash(self.app.NAME, self.app.stdout, variables)
        shell.write(found.get_commands(), found.get_data())
        return 0

    def _make_parser(self, command: list[str]) -> argparse.ArgumentParser:
        factory, name, _ = self.app.command_manager.find_command(command)
        made: argparse.ArgumentParser = factory(self.app, None).get_parser(
            f"{self.app.NAME} {name}"
        )
        return made
