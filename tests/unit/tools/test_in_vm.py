# SPDX-License-Identifier: Apache-2.0
"""``tools/in-vm``, as far as no guest is needed for it."""

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.unit.tools.programs import TOOLS, load_program

sys.path.insert(0, str(TOOLS))

from in_vm import guest, image
from platforms.errors import PlatformError


def test_no_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        PlatformError, match="install the package qemu-system-x86"
    ):
        guest.check_qemu()


def disk(**files: bytes) -> BytesIO:
    """A disk as a guest writes it: an archive, then zeros."""
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    made.write(bytes(1 << 16))
    return made


@pytest.mark.allow_subprocess
def test_results_come_back(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("w+b") as returned:
        returned.write(disk(status=b"3\n", journal=b"said\n").getvalue())
        assert guest.read_results(returned, None) == 3
        assert guest.read_results(returned, tmp_path) == 3
    assert (tmp_path / "journal").read_text() == "said\n"


@pytest.mark.parametrize("returned", [BytesIO(bytes(1 << 16)), BytesIO()])
def test_guest_without_results(returned: BytesIO) -> None:
    assert guest.read_results(returned, None) is None


def test_panic_is_named() -> None:
    log = "booting\n[1.2] Kernel panic - not syncing: no init\n[1.3] more\n"
    assert guest.describe_death(log, began=False) == (
        "the guest ended before the command began: "
        "[1.2] Kernel panic - not syncing: no init"
    )
    assert "its console ends with" in guest.describe_death("a\nb\n", True)


@pytest.mark.parametrize("is_begun", [True, False])
def test_a_guest_that_panics_is_given_up(
    tmp_path: Path, is_begun: bool
) -> None:
    """Its output is forwarded before."""
    forwarded = BytesIO()
    reader, writer = os.pipe()
    with (
        open(reader, "rb") as stream,
        open(writer, "wb", buffering=0) as job,
        (tmp_path / "console").open("w+b", buffering=0) as console,
    ):
        if is_begun:
            job.write(guest.BEGIN + b"said\n")
        console.write(b"Kernel panic - not syncing\r\n")
        qemu = cast("subprocess.Popen[bytes]", SimpleNamespace(stdout=stream))
        assert (
            guest.forward_output(qemu, console, forwarded, tick=0.01)
            == is_begun
        )
    assert forwarded.getvalue() == (b"said\n" if is_begun else b"")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The program itself."""
    monkeypatch.chdir(TOOLS)
    return load_program("in-vm")


def run(program: SimpleNamespace, deaths: int) -> tuple[int, list[list[str]]]:
    """Run it with everything but guests, of which the first ones die."""
    commands: list[list[str]] = []

    def run_job(
        _image: object,
        _size: object,
        _checkout: Path,
        command: list[str],
        _results: Path | None,
    ) -> int:
        commands.append(command)
        if len(commands) <= deaths:
            raise guest.GuestDiedError("the guest ended")
        return 5

    argv = ["--memory", "512", "ls", "--memory", "-x"]
    return program.main(argv, lambda *_: None, run_job), commands


def test_arguments_of_the_command_are_its_own(
    program: SimpleNamespace,
) -> None:
    status, commands = run(program, deaths=0)
    assert (status, commands) == (5, [["ls", "--memory", "-x"]])


def test_a_guest_that_dies_is_started_once_more(
    program: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    status, commands = run(program, deaths=1)
    assert (status, len(commands)) == (5, 2)
    assert capsys.readouterr().err == (
        "in-vm: the guest ended\nin-vm: trying once more\n"
    )
    status, commands = run(program, deaths=2)
    assert (status, len(commands)) == (1, 2)


def test_a_refusal_is_one_line(
    program: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(program, deaths=0) == (1, [])
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            image.UNAVAILABLE,
            "Debian 13 cannot be had: E: Failed getting it; see that a mirror",
        ),
        (1, "the disk image could not be made"),
    ],
)
def test_no_image(tmp_path: Path, status: int, said: str) -> None:
    (tmp_path / image.LOG).write_text("I: Retrieving\nE: Failed getting it\n")
    with pytest.raises(PlatformError, match=said):
        image.check_status(status, tmp_path)
