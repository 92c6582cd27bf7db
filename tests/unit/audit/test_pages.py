# SPDX-License-Identifier: Apache-2.0
"""The pages of the rules: all there, and their examples are what they say."""

import re
import textwrap
from pathlib import Path

import pytest
from lxml import etree

from lxc_userns.audit import RULES, Rule, audit_domain
from tests.unit.audit.documents import LXC, domain

PAGES = Path(__file__).parents[3] / "doc/source/audit"
LICENCE = ".. SPDX-License-Identifier: Apache-2.0\n"
STATIC = [rule for rule in RULES if not rule.is_live]
DEVICES = {"filesystem", "interface", "hostdev", "disk", "emulator"}
#: Where else an element of an example belongs.
PLACES = {
    "idmap": "idmap",
    "initenv": "init",
    "initgroup": "init",
    "inituser": "init",
    "namespace": "end",
    "seclabel": "end",
}


def test_each_rule_has_a_page_and_no_page_is_left_over() -> None:
    pages = {page.stem for page in PAGES.glob("*.rst")} - {"index"}
    assert pages == {rule.code for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_page(rule: Rule) -> None:
    lines = (PAGES / f"{rule.code}.rst").read_text().splitlines()
    title = f"``{rule.code}``"
    assert lines[:4] == [LICENCE.strip(), "", title, "=" * len(title)]
    assert lines[5] == f"Severity {rule.severity}: {rule.title}."
    assert "Why it matters" in lines
    assert "What to do" in lines
    assert lines.count(".. code-block:: xml") == 2
    is_told = "It is only looked for on a host" in " ".join(lines)
    assert is_told == rule.is_live


def examples(rule: Rule) -> list[str]:
    text = (PAGES / f"{rule.code}.rst").read_text()
    blocks = re.findall(r"code-block:: xml\n\n((?:    .*\n|\n)+)", text)
    return [textwrap.dedent(block) for block in blocks]


def build(example: str) -> str:
    """A domain with an example in it, and no other finding."""
    root = etree.fromstring(f"<x {LXC}>{example}</x>")
    if root.find("domain") is not None:
        return example
    parts: dict[str, str] = {}
    for element in root.iterchildren(etree.Element):
        text = etree.tostring(element, encoding="unicode")
        name = etree.QName(element).localname
        if name == "features":
            inside = map(etree.tostring, element)
            parts["features"] = b"".join(inside).decode()
            continue
        place = "devices" if name in DEVICES else PLACES[name]
        if element.find("target[@dir='/']") is not None:
            place = "root"
        parts[place] = parts.get(place, "") + text
    return domain(**parts)


@pytest.mark.parametrize("rule", STATIC, ids=lambda rule: rule.code)
def test_examples(rule: Rule) -> None:
    bad, good = (
        {each.code for each in audit_domain(build(example))}
        for example in examples(rule)
    )
    assert rule.code in bad
    assert rule.code not in good
    # What replaces it is no other hole.
    severe = {each.code for each in RULES if each.severity >= 3}
    assert good.isdisjoint(severe)
