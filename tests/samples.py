# SPDX-License-Identifier: Apache-2.0
"""The samples in README and documentation."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[1]
PAGES = (*sorted((TOP / "doc/source").rglob("*.rst")), TOP / "README.rst")
_CODE = re.compile(r"( *)\.\. code-block:: (\w+)")
_PROMPT = "# "


@dataclass(frozen=True)
class Sample:
    """A block of code.

    :param page: file that has it.
    :param kind: its language, ``literal`` if that is not said.
    """

    page: Path
    kind: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines for a shell, if it is of such; long ones as one."""
        lines = re.sub(r" *\\\n *", " ", self.text).splitlines()
        if self.kind == "console" or self.text.startswith(_PROMPT):
            lines = [each for each in lines if each.startswith(_PROMPT)]
            return [each.removeprefix(_PROMPT) for each in lines]
        return lines if self.kind == "literal" else []

    @property
    def dialogue(self) -> Iterator[tuple[str, list[str]]]:
        """Give each command of a console with the lines that it prints."""
        if self.kind != "console":
            return
        _, *parts = re.split("^" + _PROMPT, self.text, flags=re.MULTILINE)
        for part in parts:
            command, *shown = part.rstrip("\n").split("\n")
            yield command, shown


def samples(page: Path) -> Iterator[Sample]:
    """Find the code blocks and literal blocks of a page."""
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if code := _CODE.match(line):
            kind = code[2]
        elif line.endswith("::") and not line.lstrip().startswith(".."):
            kind = "literal"
        else:
            continue
        body: list[str] = []
        for each in lines[number + 1 :]:
            deep = len(each) - len(each.lstrip())
            # In an item of a list the text after it is indented as well.
            if each.strip() and deep <= indent:
                break
            if each.strip() and not any(body):
                indent = deep - 1
            body.append(each)
        yield Sample(page, kind, _dedented(body))


def _dedented(lines: list[str]) -> str:
    indents = [len(each) - len(each.lstrip()) for each in lines if each]
    text = "\n".join(each[min(indents) :] for each in lines)
    return text.strip("\n")


def run_line(
    line: str, directory: Path, environment: dict[str, str], longest: float
) -> subprocess.CompletedProcess[str]:
    """Run a line as in a root shell.

    :param longest: how many seconds it may take.
    """
    return subprocess.run(
        ["bash", "-ec", line],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=longest,
        check=False,
    )


def all_samples() -> list[Sample]:
    """Find those of all pages."""
    return [sample for page in PAGES for sample in samples(page)]
