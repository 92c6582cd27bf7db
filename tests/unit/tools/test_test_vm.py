# SPDX-License-Identifier: Apache-2.0
"""``tools/test-vm``, as far as no guest is needed for it."""

import ast
import sys
from io import BytesIO
from pathlib import Path

import pytest

from tests.unit.tools.programs import TOOLS, load_program, write_program

sys.path.insert(0, str(TOOLS))

from in_vm import selection, summary


def report(*cases: tuple[str, float, str]) -> bytes:
    """pytest's report of tests: module, seconds and elements of each."""
    text = "".join(
        f'<testcase classname="tests.functional.{module}" name="test_x" '
        f'time="{seconds}">{elements}</testcase>'
        for module, seconds, elements in cases
    )
    return f"<testsuites><testsuite>{text}</testsuite></testsuites>".encode()


GOOD = report(("test_demo", 30.0, ""), ("test_modes", 12.5, ""))


@pytest.mark.parametrize("guest", selection.SELECTION)
def test_the_selected_tests_are_there(guest: str) -> None:
    named = selection.list_tests(guest)
    if guest == selection.REBOOTED:
        named += [selection.BEFORE_REBOOT, *selection.AFTER_REBOOT]
    for each in named:
        path, _, test = each.partition("::")
        there = {
            found.name
            for found in ast.parse((TOOLS.parent / path).read_text()).body
            if isinstance(found, ast.FunctionDef)
        }
        assert {test.partition("[")[0]} - {""} <= there


def test_how_tests_are_named() -> None:
    named = selection.list_tests("lives")
    assert "tests/functional/test_demo.py" in named
    assert "tests/functional/test_host_check.py::test_this_host" in named


def test_none_runs_in_two_guests() -> None:
    lives, services = selection.SELECTION.values()
    assert not lives.keys() & services.keys()


def test_a_module_is_counted() -> None:
    failure, skipped = "<failure>x</failure>", "<skipped/>"
    text = report(
        ("test_a", 1.0, ""),
        ("test_a.Class", 2.0, failure),
        ("test_b", 0.5, f"{failure}<error>in its teardown</error>"),
        ("test_b", 0.0, skipped),
    )
    found = summary.read_report(BytesIO(text))
    assert found == {
        "test_a": summary.Counts(1, 1, 0, 3.0),
        "test_b": summary.Counts(0, 1, 1, 0.5),
    }
    assert summary.sum_up(found.values()) == summary.Counts(1, 2, 1, 3.5)


@pytest.mark.parametrize(
    ("counts", "is_good"),
    [
        (summary.Counts(passed=2), True),
        (summary.Counts(), False),
        (summary.Counts(passed=2, failed=1), False),
        (summary.Counts(passed=2, skipped=1), False),
    ],
)
def test_what_is_good(counts: summary.Counts, is_good: bool) -> None:
    assert counts.is_good == is_good


def test_the_summary() -> None:
    found = summary.read_report(BytesIO(GOOD))
    assert summary.write_summary(found, 70.2).splitlines() == [
        "  test_demo       1 passed    0 failed    0 skipped      30 s",
        "  test_modes      1 passed    0 failed    0 skipped      12 s",
        "  all             2 passed    0 failed    0 skipped      42 s",
        "  from power-on to the end 70 s",
    ]


#: Stands for ``tools/in-vm``, whose second argument names the results.
IN_VM = """\
test "$1" = --results && test ! -e "$2" && mkdir -p "$2/results" || exit 99
guest=${{2##*/}}
echo "$guest runs $#"
if test -e {report} && test "$guest" = lives; then
    cp {report} "$2/results/tests.xml"
fi
exit {status}
"""


@pytest.mark.allow_subprocess
@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (0, GOOD, 0),
        (1, GOOD, 1),
        (0, report(("test_demo", 0.0, "<skipped/>")), 1),
        # The guest, or pytest, did not come so far.
        (1, None, 1),
        (0, None, 1),
        (2, b"<testsuites>", 1),
    ],
)
def test_exit_status(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    status: int,
    text: bytes | None,
    expected: int,
) -> None:
    results = tmp_path / "build/test-vm"
    given = tmp_path / "report"
    if text is not None:
        given.write_bytes(text)
    script = IN_VM.format(report=given, status=status)
    write_program(tmp_path / "tools", "in-vm", script)
    program = load_program("test-vm")
    for _ in range(2):
        assert program.run(tmp_path / "tools", results) == expected
    # What is left is named, and nothing is after a run that went well.
    assert results.exists() == (expected != 0)
    out = capfd.readouterr().out
    assert (f"are in {results}" in out) == (expected != 0)
    for guest in selection.SELECTION:
        assert out.count(f"{guest}: {guest} runs ") == 2


def test_all_guests_count(tmp_path: Path) -> None:
    for guest, text in zip(
        selection.SELECTION,
        (GOOD, report(("test_demo", 1.0, "<failure/>"))),
        strict=True,
    ):
        directory = tmp_path / guest / "results"
        directory.mkdir(parents=True)
        (directory / "after.xml").write_bytes(text)
    found = [*load_program("test-vm").read_modules(tmp_path)]
    assert [module for module, _ in found] == [
        "test_demo",
        "test_modes",
        "test_demo",
    ]
    assert summary.sum_up(each for _, each in found).failed == 1
