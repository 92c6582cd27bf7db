# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear line, exit code 1, nothing changed."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.functional.command_line import (
    BASE,
    LONGEST,
    PROGRAM,
    CommandLine,
    call,
)
from tests.functional.conftest import FilesystemFactory
from tests.functional.containers import SLEEP

CAPLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
MAP = "0:1800000000:65536"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--uid-map", MAP], "--gid-map: is needed beside the other map"),
        (["--gid-map", MAP], "--uid-map: is needed beside the other map"),
        (["--uid-map", "0:-1:5", "--gid-map", MAP], "--uid-map = 0:-1:5: "),
        (["--uid-map", MAP, "--gid-map", "0x0:1:1"], "--gid-map = 0x0:1:1: "),
        (["--uid-map", MAP, "--gid-map", ""], "--gid-map: expected guest:"),
        (
            ["--uid-map", "0:0:10", "--gid-map", MAP],
            "--uid-map = 0:0:10: 0:0:10 maps to host ID 0",
        ),
        (
            ["--uid-map", MAP, "--gid-map", "0:1800000000:5"],
            "--gid-map = 0:1800000000:5: guest group 5 (tty) is not mapped",
        ),
        (["--workers", "-1"], "--workers = -1: expected 0 to 256"),
        (["--workers", "257"], "--workers = 257: expected 0 to 256"),
    ],
)
def test_rootfs_shift_refuses(
    cli: CommandLine, rootfs: Path, arguments: list[str], message: str
) -> None:
    result = cli("rootfs", "shift", rootfs, *arguments)
    assert message in result.error()


@pytest.mark.parametrize("verb", ["shift", "unshift", "verify"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent", "(?i)absent: no such (file or )?directory"),
        ("file", "(?i)file: not a directory"),
        ("link", "link is a symbolic link, to 'dir', and is not followed"),
        ("", "(?i)no such (file or )?directory"),
        (b"\xff\xfe", "(?i)no such (file or )?directory"),
        ("/", "is the root directory of this host|contains, or is in"),
    ],
)
def test_paths_that_cannot_be_worked_on(
    cli: CommandLine,
    tmp_path: Path,
    verb: str,
    path: str | bytes,
    message: str,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dir").mkdir()
    error = cli("rootfs", verb, os.fsdecode(path), cwd=tmp_path).error()
    with pytest.raises(ValueError, match=message):
        raise ValueError(error)
    assert (tmp_path / "dir").stat().st_uid == 0


def test_unshift_of_what_was_not_shifted(
    cli: CommandLine, rootfs: Path
) -> None:
    error = cli("rootfs", "unshift", rootfs).error()
    assert error == f"{rootfs}: it was not shifted"


def test_verify_finds_owners_that_are_wrong(
    cli: CommandLine, rootfs: Path
) -> None:
    result = cli("rootfs", "verify", rootfs, "-f", "json")
    assert result.code == 1
    assert f"{rootfs}/etc: owner 0:0 should be {BASE}:{BASE}" in result.err
    assert '"wrong": ' in result.out


@pytest.mark.needs("ext4")
def test_read_only_filesystem(
    cli: CommandLine, loop_filesystem: FilesystemFactory
) -> None:
    path = loop_filesystem("ext4")
    subprocess.run(["mount", "-o", "remount,ro", path], check=True)
    error = cli("rootfs", "shift", path).error()
    assert error == f"{path}: read-only filesystem"


def test_no_permission(cli: CommandLine, rootfs: Path) -> None:
    error = cli("rootfs", "shift", rootfs, prefix=CAPLESS).error()
    assert "not permitted" in error
    result = cli("host", "check", "-f", "value", prefix=CAPLESS)
    assert result.code == 1
    assert "state_path FAIL " in result.out


def test_no_libvirtd(cli: CommandLine, rootfs: Path) -> None:
    # Where libvirt's sockets are out of sight.
    hidden = (
        *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
        'mount -t tmpfs none /run; exec "$@"',
        "sh",
    )
    for arguments in (
        ("run", "bad", "--rootfs", rootfs, "--init", SLEEP),
        ("show", "absent"),
    ):
        result = cli("container", *arguments, prefix=hidden)
        # A container of others may have that name.
        assert result.error(4).startswith("libvirt: connect to lxc:///: ")
        assert "is libvirtd (or virtlxcd) running" in result.error(4)
    result = cli("host", "check", "-f", "value", prefix=hidden)
    assert result.code == 1
    assert "libvirt FAIL libvirt: connect to lxc:///" in result.out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<domain", "domain XML: "),
        (b"", "domain XML: no element found"),
        (b"<x/>", "domain XML: root element 'x'"),
        (b"\xff", "not UTF-8 text"),
        (b"<!DOCTYPE x><domain/>", "domain XML: has a document type"),
    ],
)
@pytest.mark.parametrize("by", ["file", "stdin"])
def test_domain_idmap_refuses(
    cli: CommandLine, tmp_path: Path, by: str, content: bytes, message: str
) -> None:
    if by == "file":
        file = tmp_path / "domain.xml"
        file.write_bytes(content)
        result = cli("domain", "idmap", file)
    else:
        result = cli("domain", "idmap", "-", input=content)
    assert message in result.error()
    assert result.out == ""


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("/absent.xml", "/absent.xml: No such file or directory"),
        ("/etc", "/etc: Is a directory"),
    ],
)
def test_domain_idmap_of_no_file(
    cli: CommandLine, file: str, message: str
) -> None:
    assert cli("domain", "idmap", file).error() == message


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--debug",),
        ("bogus",),
        ("container",),
        ("container", "bogus"),
        ("container", "run", "x"),
        ("container", "run", "x", "--rootfs", "/x", "--memory", "much"),
        ("rootfs", "shift"),
        ("rootfs", "shift", "/x", "--unmapped", "lose"),
        ("host", "check", "-f", "bogus"),
        ("host", "check", "--bogus"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert "error: " in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


# With the latter it is written in the command, and not at the end.
@pytest.mark.parametrize(
    ("unbuffered", "where"), [("", "standard output: "), ("1", "")]
)
def test_output_that_goes_nowhere(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch,
    unbuffered: str, where: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = [str(PROGRAM), "--config-file", str(cli.config)]
    command += ["config", "check"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == f"error: {where}No space left on device\n"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [str(PROGRAM), "--version"], stdout=full, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    why = "error: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, why)
    closed = ("sh", "-c", 'exec "$@" >&-', "sh")
    assert call(*command[1:], prefix=closed).err == ""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_interrupted(cli: CommandLine, tmp_path: Path, name: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    argv = [str(PROGRAM), "--config-file", str(cli.config)]
    # A shell may have started the tests with some ignored.
    with subprocess.Popen(
        ["env", "--default-signal", *argv, "domain", "idmap", str(fifo)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # It is there once the other end is opened, and reads what never comes.
        writer = os.open(fifo, os.O_WRONLY)
        process.send_signal(getattr(signal, f"SIG{name}"))
        _, err = process.communicate(timeout=LONGEST)
        os.close(writer)
    assert (process.returncode, err) == (130, "interrupted\n")
