# SPDX-License-Identifier: Apache-2.0
"""Order in which the directories of a tree that may be hostile are read."""

from __future__ import annotations

TYPE_CHECKING = False  # It loads little, to start quickly.
if TYPE_CHECKING:
    from collections.abc import Iterator


def directories() -> Iterator[tuple[str, list[str]]]:
    """Yield paths of directories, each before those below it.

    Names wait, not paths: each of those can have 4 KiB.

    :returns: paths, the first of which is ``.``, and an empty list for each,
        to which the names of the directories in it are added.
    """
    names: list[str] = []
    yield ".", names
    waiting = [(".", names)]
    while waiting:
        path, names = waiting[-1]
        if names:
            below = f"{path}/{names.pop()}"
            found: list[str] = []
            yield below, found
            waiting.append((below, found))
        else:
            waiting.pop()
