# SPDX-License-Identifier: Apache-2.0
"""Changelog made of reno's notes.

``.. release-notes::`` lists them by release. Which release a note belongs to
is in the history; where that is missing or cut off, as in an unpacked archive
or a shallow clone, all notes are listed as those of the version at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from reno.config import Config
from reno.formatter import format_report
from reno.loader import Loader
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TOP = Path(__file__).parents[3]
#: What reno calls the release of notes that no tag has yet.
_UNTAGGED = "0.0.0"


class Notes:
    """Notes of a tree, by release, as reno's formatter takes them.

    :param config: reno's.
    :param version: of the tree.
    """

    def __init__(self, config: Config, version: str) -> None:
        root = Path(config.reporoot)
        names = sorted(root.glob(f"{config.notespath}/*.yaml"))
        self._bodies = {str(each): yaml.safe_load(each.read_text()) or {}
                        for each in names}  # fmt: skip
        self._releases = {version: [(name, "") for name in self._bodies]}
        if has_history(root):
            with Loader(config) as loader:
                self._releases = {
                    _title(name, version): [
                        (path, "")
                        for found, _ in loader[name]
                        if (path := str(root / found)) in self._bodies
                    ]
                    for name in loader.versions
                }

    @property
    def versions(self) -> list[str]:
        """The releases, the newest first."""
        return list(self._releases)

    def __getitem__(self, version: str) -> list[tuple[str, str]]:
        return self._releases[version]

    def parse_note_file(self, name: str, _commit: str) -> dict[str, Any]:
        """Return the sections of a note."""
        found: dict[str, Any] = self._bodies[name]
        return found


def has_history(root: Path) -> bool:
    """Tell whether a tree is a checkout of a whole history."""
    git = root / ".git"
    return git.is_dir() and not (git / "shallow").exists()


def _title(release: str, version: str) -> str:
    return version if release.startswith((_UNTAGGED, "*")) else release


def render(root: Path, version: str) -> Iterator[str]:
    """Return the lines of the changelog."""
    config = Config(str(root))
    notes = Notes(config, version)
    text = format_report(notes, config, notes.versions, show_source=False)
    # One level down: the page has a title.
    below = str.maketrans("=-", "-.")
    for line in text.splitlines():
        is_rule = len({*line}) == 1
        yield line.translate(below) if is_rule else line


class ReleaseNotes(SphinxDirective):
    """List the notes of all releases."""

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        for path in (TOP / "releasenotes").rglob("*.yaml"):
            self.env.note_dependency(str(path))
        text = "\n".join(render(TOP, self.config.release))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("release-notes", ReleaseNotes)
    return {"parallel_read_safe": True}
