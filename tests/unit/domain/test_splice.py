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
    ("text", "new", "edited"),
    [
        (
            "<a>\n  <b>\n    <!--1-->\n    <c/><!--2\n--><d/>\n    <!--3-->"
            "\n  </b>\n</a>",
            "<b><c x='y'/><d/></b>",
            '<a>\n  <b>\n    <!--1-->\n    <c x="y"/>\n    <!--2\n-->'
            "\n    <d/>\n    <!--3-->\n  </b>\n</a>",
        ),
        (
            "<a><b><c><e><!--1\n--></e></c><!--2--><d/></b></a>",
            "<b><d/></b>",
            "<a><b><!--1\n--><!--2--><d/></b></a>",
        ),
    ],
    ids=["lines", "no lines"],
)
def test_comments_stay_in_what_is_replaced(
    text: str, new: str, edited: str
) -> None:
    root = etree.fromstring(text)
    editor = Editor(text, root)
    editor.replace(root[0], etree.fromstring(new))
    assert editor.to_text() == edited


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
