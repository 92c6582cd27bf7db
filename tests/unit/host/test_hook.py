# SPDX-License-Identifier: Apache-2.0
"""libvirt's hook: its text, and what is said of one that is there."""

import os
import shlex
import stat
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from lxc_userns.commands import configured_by
from lxc_userns.domain import NAMESPACE
from lxc_userns.findings import Severity
from lxc_userns.hook import MARKER
from lxc_userns.host import hook

MARKED = "<m xmlns='urn:lxc-userns:domain:1.0'/>"
FORMS = {
    "marked": MARKED,
    "marked, with maps": f"<idmap/>{MARKED}",
    "maps": "<idmap/>",
    "neither": "<name>vm</name>",
}
CALLED = ("prepare", "started", "reconnect", "release")


def status(mode: int = 0o755, uid: int = 0) -> os.stat_result:
    values = [stat.S_IFREG | mode, 0, 0, 1, uid, 0, 0, 0, 0, 0]
    return os.stat_result(values)


def evaluate(text: str, known: bool | None = True, **of: int) -> Severity:
    return hook.evaluate(text, status(**of), known).severity


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that says with what it was called."""
    path = tmp_path / hook.PROGRAM
    path.write_text('#!/bin/sh\necho "$@"\ncat\n')
    path.chmod(0o755)
    return path


def test_check(program: Path) -> None:
    text = hook.render([str(program)], [])
    assert evaluate(text) == Severity.INFO
    assert evaluate(text, None) == Severity.INFO
    assert evaluate(text, False) == Severity.WARN
    assert evaluate(text, mode=0o644) == Severity.ERROR
    assert evaluate(text, mode=0o775) == Severity.ERROR
    assert evaluate(text, uid=1000) == Severity.ERROR
    version = metadata.version("lxc-userns")
    assert evaluate(text.replace(f" {version}, ", " 99, ")) == Severity.WARN


@pytest.mark.parametrize("files", [[], ["/etc/a b.conf", "/etc/c.conf"]])
def test_it_is_installed_again_as_it_is(
    files: list[str], program: Path
) -> None:
    """With the configuration that it has, not with that of who looks."""
    text = hook.render([str(program)], files)
    with configured_by(["/etc/other.conf"]):
        found = hook.evaluate(text, status(), False)
    words = shlex.split(found.remedy.partition(",")[0])
    options = [word for each in files for word in ("--config-file", each)]
    assert words == ["run", "lxc-userns", *options, "host", "hook", "install"]


def test_check_of_a_program_that_is_gone(program: Path) -> None:
    text = hook.render([str(program)], [])
    program.unlink()
    assert evaluate(text) == Severity.ERROR
    assert evaluate("#!/bin/sh\n" + text.split("\n")[1]) == Severity.ERROR


def run(text: str, place: Path, step: str, xml: str) -> str:
    script = place / "hook"
    script.write_text(text)
    done = subprocess.run(
        ["sh", script, "vm", step, "begin", "-"],
        input=xml,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.allow_subprocess
@pytest.mark.parametrize("form", FORMS)
def test_calls(form: str, program: Path, tmp_path: Path) -> None:
    """With nothing configured, only domains of ours count."""
    config = tmp_path / "a b.conf"
    config.write_text("# unmarked_domains = refuse\n")
    text = hook.render([str(program)], [str(config)])
    for step in (*CALLED, "start", "stopped"):
        said = run(text, tmp_path, step, FORMS[form])
        if form.startswith("marked") and step in CALLED:
            arguments = f"--config-file {config} vm {step} begin -"
            assert said == f"{arguments}\n{FORMS[form]}\n"
        else:
            assert said == ""


@pytest.mark.allow_subprocess
@pytest.mark.parametrize("is_directory", [False, True])
def test_calls_for_unmarked(
    is_directory: bool, program: Path, tmp_path: Path
) -> None:
    """If they may be refused they are passed on at prepare, to be read."""
    place = tmp_path / "conf.d"
    place.mkdir()
    config = place / "a.conf"
    config.write_text("[lxc_userns]\nunmarked_domains=refuse\n")
    text = hook.render(
        [str(program)], [str(place if is_directory else config)]
    )
    for form in ("maps", "neither"):
        for step in CALLED:
            said = run(text, tmp_path, step, FORMS[form])
            assert bool(said) == (step == "prepare")


@pytest.mark.allow_subprocess
def test_calls_for_unmarked_by_a_link(program: Path, tmp_path: Path) -> None:
    """Files of a directory are read through links, too."""
    place = tmp_path / "conf.d"
    place.mkdir()
    config = tmp_path / "refuse.conf"
    config.write_text("[lxc_userns]\nunmarked_domains=refuse\n")
    (place / "a.conf").symlink_to(config)
    text = hook.render([str(program)], [str(place)])
    assert run(text, tmp_path, "prepare", FORMS["neither"])


@pytest.mark.allow_subprocess
def test_exit_code(tmp_path: Path, program: Path) -> None:
    program.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    script = tmp_path / "hook"
    script.write_text(hook.render([str(program)], []))
    done = subprocess.run(
        ["sh", script, "vm", "prepare", "begin", "-"],
        input=MARKED,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "no\n")


def test_the_front_knows_the_mark() -> None:
    """Without loading what reads it."""
    assert MARKER.decode() == NAMESPACE


def test_names_with_blanks_are_quoted() -> None:
    text = hook.render(["/opt/a b/python", "-I"], ["/etc/c d"])
    last = shlex.split(text.rstrip().rpartition(" | ")[2])
    assert last == [
        "/opt/a b/python", "-I", "--config-file", "/etc/c d", "$@"
    ]  # fmt: skip
