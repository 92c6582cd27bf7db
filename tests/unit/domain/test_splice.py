# SPDX-License-Identifier: Apache-2.0
"""Editor of a document, byte for byte."""

import pytest
from lxml import etree

from lxc_userns.domain.splice import Editor
from lxc_userns.exceptions import DomainXmlError


def edit(text: str) -> Editor:
    return Editor(text, etree.fromstring(text))


def test_first_below_the_root() -> None:
    editor = edit("<a><b/></a>")
    editor.add(etree.Element("c"), "missing")
    assert "".join(editor.to_text().split()) == "<a><c/><b/></a>"


def test_a_parent_is_made_once() -> None:
    editor = edit("<a><b/></a>")
    for name in ("x", "y"):
        editor.add_in(etree.Element("c"), [etree.Element(name)], "b")
    text = "".join(editor.to_text().split())
    assert text == "<a><b/><c><x/><y/></c></a>"


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("<a/>", "<a><b/></a>"),
        ("<!DOCTYPE a [<!ENTITY e '<b/>'>]><a>&e;</a>", "<a><b/></a>"),
    ],
)
def test_a_document_that_is_another_to_libxml2(text: str, other: str) -> None:
    with pytest.raises(DomainXmlError, match="cannot be edited"):
        Editor(text, etree.fromstring(other))
