# SPDX-License-Identifier: Apache-2.0
"""Samples and names in README and documentation, as far as text tells.

``tests/functional/test_samples.py`` runs them.
"""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from lxml import etree

from lxc_userns.cli import exec_arguments, main
from lxc_userns.config.load import load_conf
from lxc_userns.config.settings import Settings
from tests.samples import PAGES, TOP, Sample, all_samples

SAMPLES = all_samples()
PROGRAM = re.compile(r"(?:^|\s)(?:\S*/)?lxc-userns (?=[-a-z])(.*)")
NAMED = re.compile(
    r"``((?:src|tests|tools|doc|etc|releasenotes|packaging|benchmarks)/"
    r"[\w./-]*)"
)
DOTTED = re.compile(r"(?<![\w.])lxc_userns(?:\.\w+)+")


def of_kind(*kinds: str) -> list[Sample]:
    return [each for each in SAMPLES if each.kind in kinds]


def test_samples_are_found() -> None:
    kinds = {each.kind for each in SAMPLES}
    assert {"console", "ini", "literal", "python", "xml"} <= kinds
    assert len(SAMPLES) > 100


def commands() -> list[tuple[str, str]]:
    return [
        (sample.page.name, found[1])
        for sample in SAMPLES
        for line in sample.commands
        if (found := PROGRAM.search(line))
    ]


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_is_one(page: str, line: str) -> None:
    """With options that it has."""
    words = shlex.split(re.split(r" [|>]", line)[0], comments=True)
    own, _command_in_container = exec_arguments.split(words)
    app = main.LxcUserns()
    app.options, rest = app.parser.parse_known_args(own)
    factory, name, arguments = app.command_manager.find_command(rest)
    command = factory(app, app.options, cmd_name=name)
    command.get_parser(f"lxc-userns {name}").parse_args(arguments)


@pytest.mark.parametrize(
    "sample", of_kind("ini"), ids=lambda each: each.page.parent.name
)
def test_every_configuration_is_good(sample: Sample, tmp_path: Path) -> None:
    file = tmp_path / "sample.conf"
    file.write_text(sample.text)
    conf = load_conf([str(file)])
    assert Settings.from_conf(conf).find_problems() == []


@pytest.mark.parametrize(
    "sample", of_kind("python"), ids=lambda each: each.page.parent.name
)
def test_every_piece_of_python_is_such(sample: Sample) -> None:
    compile(sample.text, str(sample.page), "exec")


def test_no_table_has_the_notation_of_python() -> None:
    for sample in of_kind("console"):
        assert not re.search(r"\| (None|\[.*\]) +\|", sample.text)


def test_all_xml_is_well_formed() -> None:
    for sample in of_kind("xml"):
        lxc = "http://libvirt.org/schemas/domain/lxc/1.0"
        etree.fromstring(f"<x xmlns:lxc='{lxc}'>{sample.text}</x>")


@pytest.mark.parametrize(
    "page", [*PAGES, TOP / "SECURITY.md"], ids=lambda each: each.parent.name
)
def test_what_pages_name_is_there(page: Path) -> None:
    text = page.read_text()
    for path in NAMED.findall(text.replace("``doc/build", "``")):
        assert (TOP / path).exists(), path
    for name in re.findall(r"``(\w+\.py)``", text):
        assert [*(TOP / "tests").rglob(name), *(TOP / "src").rglob(name)], name
    for target in re.findall(r"``make ([\w-]+)", text):
        makefile = (TOP / "Makefile").read_text()
        assert re.search(rf"^(.*[ ])?{target}[ :]", makefile, re.MULTILINE)
    for name in DOTTED.findall(text):
        assert find(name), name


def find(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    if name == "lxc_userns.LibvirtLXCDriver":
        return True  # By packaging/lxc-userns-nova, for Nova alone.
    module = name
    rest: list[str] = []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError as err:
            if err.name and not err.name.startswith("lxc_userns"):
                return True  # It is there; Nova is not.
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
    for attribute in rest:
        if not hasattr(found, attribute):
            return False
        found = getattr(found, attribute)
    return True


def test_the_table_of_modules_is_whole() -> None:
    text = (TOP / "doc/source/contributor/index.rst").read_text()
    table = text[text.index("``cli/``") :].split("\n\n")[0]
    rows = re.findall(r"^((?:``\w+/?``,? *)+)", table, re.MULTILINE)
    named = set(re.findall(r"``(\w+)/?``", " ".join(rows)))
    there = {
        each.name.removesuffix(".py")
        for each in (TOP / "src/lxc_userns").iterdir()
        if not each.name.startswith("_") and each.name != "py.typed"
    }
    assert named == there
