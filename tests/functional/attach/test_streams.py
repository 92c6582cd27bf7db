# SPDX-License-Identifier: Apache-2.0
"""Input, output and signals of commands in containers."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.functional.attach.box import LONGEST, Box, line, started

pytestmark = pytest.mark.needs("containers")


def test_streams(private: Box) -> None:
    """Large ones, in both directions at once, and to their ends."""
    data = os.urandom(1 << 20) * 8
    done = subprocess.run(
        private.argv("sh", "-c", "cat | tee /dev/stderr"),
        input=data,
        capture_output=True,
        timeout=LONGEST,
    )
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr == data


def test_a_command_that_reads_nothing_leaves_the_rest(
    private: Box, tmp_path: Path
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\nthree\n")
    loop = 'while read word; do "$@" echo $word; done'
    with lines.open() as stream:
        done = subprocess.run(
            ["sh", "-c", loop, "sh", *private.argv()],
            stdin=stream, capture_output=True, text=True, timeout=LONGEST,
        )  # fmt: skip
    assert (done.stdout, done.stderr) == ("one\ntwo\nthree\n", "")


def test_a_command_that_writes_to_its_own_input(
    private: Box, tmp_path: Path
) -> None:
    """Bytes that it was never given are not left to who reads next."""
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\n")
    with lines.open("rb", buffering=0) as stream:
        stream.seek(4)
        script = "sleep 0.5; printf 1234 >/proc/self/fd/0"
        subprocess.run(
            private.argv("sh", "-c", script), stdin=stream, check=True
        )
        assert stream.tell() == 4


@pytest.mark.parametrize(
    ("redirection", "arguments", "said"),
    [
        (">/dev/full", ("echo", "lost"), "standard output"),
        (">/dev/full", ("yes",), "standard output"),
        (">/dev/full", ("-t", "yes"), "standard output"),
        ("2>/dev/full", ("sh", "-c", "echo lost >&2"), ""),
    ],
)
def test_output_that_cannot_be_written(
    private: Box, redirection: str, arguments: tuple[str, ...], said: str
) -> None:
    """It is lost, whatever the command says of itself."""
    argv = ["sh", "-c", f'exec "$@" {redirection} </dev/null', "sh"]
    done = subprocess.run(
        [*argv, *private.argv(*arguments)],
        capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    assert done.returncode == 125
    error = f"error: {said}: No space left on device\n" if said else ""
    assert (done.stdout, done.stderr) == ("", error)


def test_closed_streams(private: Box) -> None:
    closed = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh"]
    done = subprocess.run(
        [*closed, *private.argv("cat")], capture_output=True, timeout=LONGEST
    )
    assert (done.returncode, done.stdout) == (0, b"")
    # Who reads has gone: the command is told as by any pipe.
    with started(private, "yes") as process:
        assert line(process) == "y\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(LONGEST) == 141
    # A terminal that is not read any more has gone.
    with started(private, "-t", "yes") as process:
        assert line(process) == "y\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(LONGEST) == 129


def test_a_process_in_the_background_is_left(private: Box) -> None:
    script = "sleep 1000 & echo $!"
    pid = private.out("sh", "-c", script).strip()
    assert private.exec("kill", "-0", pid).code == 0
    script = "while :; do echo x; done & echo first"
    assert private.out("sh", "-c", script).startswith(("first", "x"))


@pytest.mark.parametrize("number", ["INT", "TERM", "HUP", "QUIT"])
def test_signals(private: Box, number: str) -> None:
    script = f"trap 'exit 7' {number}; echo ready; while :; do sleep 1; done"
    with started(private, "sh", "-c", script) as process:
        assert line(process) == "ready\n"
        process.send_signal(getattr(signal, f"SIG{number}"))
        assert process.wait(LONGEST) == 7
