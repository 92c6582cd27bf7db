# SPDX-License-Identifier: Apache-2.0
"""The page of messages: each is one that the program has."""

import ast
import re
from collections.abc import Iterator

from tests.samples import TOP

PAGE = TOP / "doc/source/troubleshooting.rst"
#: Messages of libvirt and of systemd, which their users meet.
OTHERS = ("Failed to create", "Failed to fork off")


def messages() -> list[str]:
    return re.findall(r"^``(.*)``$", PAGE.read_text("utf-8"), re.MULTILINE)


def literals() -> Iterator[str]:
    """Give all texts in the sources, with blanks for what is filled in."""
    for path in sorted((TOP / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "\0"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(
                node.value, str
            ):
                yield node.value


def test_each_is_a_message_of_the_program() -> None:
    texts = "\n".join(literals())
    found = messages()
    assert len(found) > 20
    for message in found:
        if message.startswith(OTHERS):
            continue
        pattern = ".*".join(map(re.escape, re.split(r" ?\.\.\. ?", message)))
        assert re.search(pattern, texts), message
