# SPDX-License-Identifier: Apache-2.0
"""``tools/make-man-pages``: a page for each command, as its --help."""

import argparse
import re
from types import SimpleNamespace

import pytest

from lxc_userns.cli.main import LxcUserns
from tests.unit.tools.programs import load_program

#: Requests of man(7) that the pages have, and no others.
REQUEST = re.compile(r"\.(TH|SH|TP|PP|BR?|I|nh|hy)( |$)")


@pytest.fixture(scope="module")
def tool() -> SimpleNamespace:
    return load_program("make-man-pages")


@pytest.fixture(scope="module")
def pages(
    tool: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    path = tmp_path_factory.mktemp("man") / "made"
    assert tool.main([str(path)]) == 0
    return {each.name: each.read_text("utf-8") for each in path.iterdir()}


NAMES = sorted({*LxcUserns().command_manager.commands} - {"help"})


def test_each_command_has_a_page_and_nothing_else(
    pages: dict[str, str],
) -> None:
    wanted = {f"lxc-userns-{name.replace(' ', '-')}.8" for name in NAMES}
    assert set(pages) == wanted | {"lxc-userns.8", "lxc-userns-hook.8"}
    for name in wanted:
        assert f".BR {name.removesuffix('.8')} (8)" in pages["lxc-userns.8"]


@pytest.mark.parametrize("name", NAMES)
def test_it_has_what_help_has(
    tool: SimpleNamespace, pages: dict[str, str], name: str
) -> None:
    page = pages[f"lxc-userns-{name.replace(' ', '-')}.8"]
    plain = page.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")
    command = tool.load(LxcUserns(), name)
    for paragraph in command.get_description().split("\n\n"):
        for line in paragraph.splitlines():
            assert line.strip() in plain
    parser: argparse.ArgumentParser = command.get_parser(name)
    for group in parser._action_groups:
        for action in group._group_actions:
            hidden = action.help == argparse.SUPPRESS
            if group.title in tool.COMMON or hidden:
                continue
            for option in action.option_strings:
                assert option in plain
    assert re.search(r"^\.SH NAME\n\S+ \\- [A-Z]", page, re.MULTILINE)


def test_no_text_is_taken_for_a_request(pages: dict[str, str]) -> None:
    for text in pages.values():
        for line in text.splitlines():
            assert line[:1] != "'", line
            assert line[:1] != "." or REQUEST.match(line), line
            assert line == line.rstrip()


def test_escapes(tool: SimpleNamespace) -> None:
    assert tool.text("a-b \\x\n.c\n'd\n  e") == ("a\\-b \\ex\n\\&.c\n\\&'d\ne")


def test_exit_codes_of_a_command_in_a_container(
    pages: dict[str, str],
) -> None:
    assert "\n126\n" in pages["lxc-userns-container-exec.8"]
    assert "\n126\n" not in pages["lxc-userns-container-run.8"]


def test_usage(
    tool: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["--help"]):
        assert tool.main(arguments) == 2
    assert "usage: tools/make-man-pages DIRECTORY" in capsys.readouterr().err
