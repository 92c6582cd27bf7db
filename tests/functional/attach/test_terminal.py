# SPDX-License-Identifier: Apache-2.0
"""Commands in containers, on a terminal."""

import fcntl
import os
import re
import signal
from contextlib import suppress

import pytest

from lxc_userns.linux import pseudoterminals
from lxc_userns.linux.process import Process
from lxc_userns.linux.processes import children
from tests.functional.attach.box import LONGEST, Box, Terminal, on_terminal

pytestmark = pytest.mark.needs("containers")


def test_terminal(box: Box, terminal: Terminal) -> None:
    """Of the container's own: size, signals, keys; the host's is restored."""
    with on_terminal(box, terminal, "--tty") as process:
        terminal.type("echo $0 $TERM; tty; stty size\r")
        found = terminal.expect(r"-sh vt220\r\n(/dev/pts/\d+)\r\n33 99\r\n")
        assert terminal.is_raw()
        device = os.stat(f"/proc/{box.init}/root{found[1]}")
        own = os.fstat(terminal.slave)
        assert device.st_uid == box.base
        assert device.st_dev != own.st_dev
        pseudoterminals.set_size(terminal.master, 44, 55)
        process.send_signal(signal.SIGWINCH)
        terminal.type("stty size\r")
        terminal.expect(r"44 55\r\n")
        terminal.type("sh -c 'echo $((3 + 4)) up; exec sleep 1000'\r")
        terminal.expect("7 up")
        terminal.type("\x03")
        terminal.type("echo still $((1 + 1)); exit 9\r")
        terminal.expect("still 2")
        assert process.wait(LONGEST) == 9
        assert not terminal.is_raw()


def test_a_terminal_goes_away(private: Box, terminal: Terminal) -> None:
    with on_terminal(
        private, terminal, "-t", "sh", "-c", "echo ready; sleep 1000"
    ) as process:
        terminal.expect("ready")
        (pid,) = children(process.pid)
        with Process(pid) as command:
            os.close(terminal.slave)
            os.close(terminal.master)
            assert process.wait(LONGEST) == 129
            with suppress(ProcessLookupError):
                assert command.wait(LONGEST)


def test_terminal_without_one_of_the_host(private: Box) -> None:
    done = private.exec(
        "-t", "sh", "-c", 'tty; stty size; read x; echo "<$x>"; cat',
        input=b"word\n",
    )  # fmt: skip
    assert done.code == 0
    # The terminal echoes what is typed, whenever that comes.
    device, *others = sorted(done.out.split("\r\n"))[1:]
    assert re.fullmatch(r"/dev/pts/\d+", device)
    assert others == ["24 80", "<word>", "word"]


def test_the_last_line_for_a_terminal_does_not_end(private: Box) -> None:
    done = private.exec("-t", "cat", input=b"one\ntwo")
    assert done.code == 0
    assert "two" in done.out


def test_each_reader_of_a_terminal_finds_the_end(private: Box) -> None:
    """The end for all of them, which a pipe has too."""
    # The shell edits lines, and has the terminal pass on all keys; cat not.
    commands = b"cat\necho one\ncat\n"
    for argv in (("sh",), ("sh", "-c", "cat; cat; sh; cat; echo two >&2")):
        done = private.exec("-t", *argv, input=commands)
        assert done.code == 0
    assert done.out.endswith("two\r\n")


def test_terminal_that_is_none(private: Box) -> None:
    """The container has put something else in place of the device."""
    script = (
        "umount /dev/pts; rm -rf /dev/pts; mkdir -p /dev/pts; "
        "mkfifo /dev/pts/ptmx"
    )
    private.exec("sh", "-c", script)
    found = private.exec("-t", "id").error(125)
    assert "make a terminal: " in found


def test_descriptors_of_the_terminal_do_not_block_others(
    private: Box, terminal: Terminal
) -> None:
    """The host's terminal is as it was, for whoever shares it."""
    with on_terminal(private, terminal, "-t", "true") as process:
        assert process.wait(LONGEST) == 0
    assert not fcntl.fcntl(terminal.slave, fcntl.F_GETFL) & os.O_NONBLOCK
