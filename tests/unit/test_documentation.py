# SPDX-License-Identifier: Apache-2.0
"""What the documentation says of the tests, and of the policy."""

import ast
import re
from pathlib import Path

from lxc_userns.policy import HOST_CAPABILITIES

TOP = Path(__file__).parents[2]
DOC = TOP / "doc/source"
_CITED = re.compile(r"``([a-z_/]+\.py)``:\s+((?:``test_\w+``,?\s*)+)")


def test_each_known_danger_has_a_test_that_is_there() -> None:
    text = (DOC / "isolation/index.rst").read_text()
    rows = text.count("   * - ") - text.count("list-table")
    cited = _CITED.findall(text)
    named = set(re.findall(r"test_\w+(?!\w*\.py)", text))
    for module, names in cited:
        tree = ast.parse((TOP / "tests/functional" / module).read_text())
        there = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
        }
        for name in re.findall(r"test_\w+", names):
            assert name in there, (module, name)
            named.discard(name)
    assert len(cited) >= rows
    assert {name for name in named if f"{name}.py" not in text} == set()


def test_capabilities_that_count_on_the_host_only() -> None:
    text = (DOC / "policy/index.rst").read_text()
    listed = text.split("user_namespaces(7)`):")[1].split("A container that")[
        0
    ]
    assert set(re.findall(r"``(\w+)``", listed)) == HOST_CAPABILITIES
