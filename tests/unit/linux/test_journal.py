# SPDX-License-Identifier: Apache-2.0
"""Log lines for systemd's journal."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxc_userns.cli import main
from lxc_userns.exceptions import InstanceError
from lxc_userns.hook import calls
from lxc_userns.linux import journal
from lxc_userns.linux.journal import JournalHandler

XML = b"""<domain type='lxc'><name>web</name><metadata>
<c:container xmlns:c='urn:lxc-userns:domain:1.0'/></metadata></domain>"""


def journal_is_at(path: str, patch: pytest.MonkeyPatch) -> None:
    """Send to another socket what is for the journal."""

    class Redirected(socket.socket):
        def sendto(self, data: bytes, address: str) -> int:  # type: ignore[override]
            assert address == "/run/systemd/journal/socket"
            return super().sendto(data, path)

    exists = os.path.exists
    patch.setattr(socket, "socket", Redirected)
    patch.setattr(os.path, "exists", lambda _: exists(path))


@pytest.fixture
def journald(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Listen where the journal would."""
    path = f"{tmp_path}/socket"
    journal_is_at(path, monkeypatch)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.setblocking(False)
        yield listener


@pytest.fixture
def logger() -> logging.Logger:
    """The package's logger; what a test adds to it goes with the test."""
    return logging.getLogger("lxc_userns")


def receive(journald: socket.socket) -> dict[str, str]:
    """Read one entry, as the protocol has it."""
    data, fields = journald.recv(1 << 20), {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        assert name.decode() not in fields
        fields[name.decode()] = value.decode()
        data = rest
    return fields


def test_an_entry(journald: socket.socket, logger: logging.Logger) -> None:
    logger.addHandler(JournalHandler("it", operation="started"))
    logger.setLevel(logging.DEBUG)
    logging.getLogger("lxc_userns.x").warning(
        "%s: %d", "web", 1, extra={journal.INSTANCE: "web"}
    )
    assert receive(journald) == {
        "MESSAGE": "web: 1",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "it",
        "LOGGER": "lxc_userns.x",
        "LXC_USERNS_INSTANCE": "web",
        "LXC_USERNS_OPERATION": "started",
    }
    logger.error(InstanceError("web", "is not ready"))
    found = receive(journald)
    assert found["MESSAGE"] == "web: is not ready"
    assert found["LXC_USERNS_ERROR"] == "InstanceError"
    assert found["LXC_USERNS_INSTANCE"] == "web"
    for level, priority in ((10, "7"), (20, "6"), (40, "3"), (50, "2")):
        logger.log(level, "said")
        found = receive(journald)
        assert found["PRIORITY"] == priority
        assert "LXC_USERNS_INSTANCE" not in found


def test_no_text_becomes_a_field(journald: socket.socket) -> None:
    text = "a\nPRIORITY=0\n\udcff\0" + "x" * 100_000
    # Not by a logger: pytest would report the text, and cannot send it.
    record = logging.makeLogRecord({"name": "x", "levelno": 30, "msg": text})
    JournalHandler("it", instance="b\nc").handle(record)
    found = receive(journald)
    assert found["MESSAGE"].startswith("a\nPRIORITY=0\n\\udcff\0xxx")
    assert len(found["MESSAGE"]) < 20_000
    assert found["PRIORITY"] == "4"
    assert found["LXC_USERNS_INSTANCE"] == "b\nc"


def test_without_a_journal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal_is_at(f"{tmp_path}/none", monkeypatch)
    logger.addHandler(JournalHandler("it"))
    logger.warning("said")
    assert capsys.readouterr().err == "said\n"


def test_a_journal_that_is_full_is_not_waited_for(
    journald: socket.socket,
    logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger.addHandler(JournalHandler("it"))
    for _ in range(2000):
        logger.warning("said")
    assert "said\n" in capsys.readouterr().err


def test_commands_whose_errors_go_to_the_journal(
    journald: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "x.conf"
    file.write_text("[libvirt]\nuid_maps = x\n")
    argv = ["--config-file", str(file), "domain", "idmap", "/nowhere"]
    status = os.fstat(2)
    stream = f"{status.st_dev}:{status.st_ino}"
    for value in ("", "1:2", f"{stream}0"):
        monkeypatch.setenv("JOURNAL_STREAM", value)
        assert main.main(argv) == 1
        err = capfd.readouterr().err
        assert err.startswith("error: ")
    with pytest.raises(BlockingIOError):
        receive(journald)
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    assert main.main(argv) == 1
    found = receive(journald)
    assert err == f"error: {found['MESSAGE']}\n"
    assert found["PRIORITY"] == "3"
    assert found["SYSLOG_IDENTIFIER"] == "lxc-userns"
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("logger")
def test_the_hook_has_its_domain_and_step_in_each_line(
    journald: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calls.call("web", "prepare", XML, ["/nowhere.conf"]) == 1
    found = receive(journald)
    assert capsys.readouterr().err == f"lxc-userns: {found['MESSAGE']}\n"
    assert found["SYSLOG_IDENTIFIER"] == "lxc-userns-hook"
    assert found["LXC_USERNS_INSTANCE"] == "web"
    assert found["LXC_USERNS_OPERATION"] == "prepare"


def test_the_hook_without_a_journal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal_is_at(f"{tmp_path}/none", monkeypatch)
    handlers = logger.handlers[:]
    assert calls.call("web", "prepare", XML, ["/nowhere.conf"]) == 1
    assert logger.handlers == handlers
    assert capsys.readouterr().err.count("\n") == 1
