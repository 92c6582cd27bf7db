# SPDX-License-Identifier: Apache-2.0
"""The documentation as a reader has it: what Sphinx makes of it."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

DOC = Path(__file__).parents[2] / "doc/source"

pytestmark = pytest.mark.allow_subprocess


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("html")
    argv = ["--fail-on-warning", "--quiet", "--builder", "html"]
    subprocess.run(
        [sys.executable, "-m", "sphinx", *argv, DOC, place],
        check=True,
        timeout=300,
    )
    return place


def text_of(page: Path) -> str:
    text = page.read_text("utf-8")
    return unescape(re.sub(r"<[^>]*>", "", text[text.index("<body>") :]))


def pages(html: Path) -> list[Path]:
    found = sorted(html.rglob("*.html"))
    assert len(found) > 40
    return found


def test_options_have_their_hyphens(html: Path) -> None:
    """A dash that is copied to a shell is no option."""
    for page in pages(html):
        text = text_of(page)
        assert re.findall(r"[\u2013\u2014][\w-]", text) == [], page
        assert re.findall("[\u2018\u2019\u201c\u201d]", text) == [], page


def test_every_page_has_a_title(html: Path) -> None:
    index = (html / "searchindex.js").read_text("utf-8")
    assert '"Getting started"' in index
    assert "no title" not in index
    for page in pages(html):
        title = re.search("<title>(.*?)</title>", page.read_text("utf-8"))
        assert title is not None
        assert "no title" not in title[1]


def test_wide_tables_are_scrolled(html: Path) -> None:
    style = (html / "_static/tables.css").read_text("utf-8")
    assert "overflow-x: auto" in style
    for page in pages(html):
        if "<table" in page.read_text("utf-8"):
            assert "_static/tables.css" in page.read_text("utf-8"), page


@pytest.mark.parametrize("name", ["ready.svg", "leases.svg"])
def test_plots_have_units(name: str) -> None:
    """Each number beside an axis has a unit, or its axis says of what."""
    text = (DOC / "performance" / name).read_text("utf-8")
    labels = [each.strip() for each in re.findall(r">([^<>]*)</text>", text)]
    assert [each for each in labels if each.startswith("number of ")]
    assert "time (median, least and most)" in labels
    times = [each for each in labels if re.fullmatch(r"\d+ \D*s", each)]
    assert len(times) > 3
    # Powers of ten are drawn in pieces, and none of them has a unit.
    assert "\\times10" not in text
