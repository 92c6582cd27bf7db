# SPDX-License-Identifier: Apache-2.0
"""Arguments of ``container exec``: the place where the command begins.

What follows is the command's own: no option of this program is looked for in
it.
"""

from __future__ import annotations

from collections.abc import Sequence

_COMMAND = ["container", "exec"]
_SEPARATOR = "--"
#: Options that a value follows, of the program and of this command.
_LONG = ("--config-file", "--user", "--workdir", "--env")
_SHORT = "uwe"


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the program's own arguments, and the command.

    :param argv: arguments of the program; of other commands than this one all
        are its own.
    """
    words: list[str] = []
    rest = iter(enumerate(argv))
    for position, word in rest:
        is_named = len(words) == len(_COMMAND) + 1
        if word == _SEPARATOR:
            if is_named:
                return [*argv[:position]], [*argv[position + 1 :]]
            break
        if word.startswith("-") and word != "-":
            if _takes_next(word):
                next(rest, None)
            continue
        if is_named:
            return [*argv[:position]], [*argv[position:]]
        words.append(word)
        if words[:2] != _COMMAND[: len(words)]:
            break
    return [*argv], []


def _takes_next(word: str) -> bool:
    if word.startswith("--"):
        # It may be shortened.
        return "=" not in word and any(each.startswith(word) for each in _LONG)
    letters = word[1:]
    # Flags may stand before it, and its value may be attached.
    flags = letters.rstrip(_SHORT)
    return len(letters) - len(flags) == 1 and not set(flags) & set(_SHORT)
