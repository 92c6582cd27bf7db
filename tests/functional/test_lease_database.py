# SPDX-License-Identifier: Apache-2.0
"""Lease databases that cannot be trusted, read or written to."""

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.functional.command_line import CommandLine
from tests.functional.lease_host import (
    HostFiles,
    acquire,
    at_once,
    both,
    cli,
    held,
    host_files,
)

__all__ = ["cli", "host_files"]

# Also those without containers: what is mounted over files of /etc is to be
# seen in a mount namespace of our own alone.
pytestmark = pytest.mark.needs("containers")


COMMANDS = ("lease acquire b", "lease list", "lease release a")


def write_garbage(file: Path) -> str:
    file.write_bytes(b"leases? " * 1000)
    return f"{file}: file is not a database; it is damaged: restore a backup"


def write_another_version(file: Path) -> str:
    database = sqlite3.connect(file)
    database.execute("PRAGMA user_version = 99")
    database.close()
    return f"{file}: its schema has version 99, this version of lxc-userns"


def open_to_others(file: Path) -> str:
    file.touch()
    file.parent.chmod(0o755)
    return f"{file.parent} has mode 0755"


def give_away(file: Path) -> str:
    file.touch()
    os.chown(file.parent, 1000, 0)
    return f"{file.parent} belongs to user 1000"


@pytest.mark.parametrize(
    "damage",
    [
        write_garbage,
        write_another_version,
        open_to_others,
        give_away,
    ],
)
def test_leases_that_cannot_be_trusted(
    cli: CommandLine, host_files: HostFiles, damage: Callable[[Path], str]
) -> None:
    host_files.give_ranges(2)
    cli.state.mkdir(mode=0o700)
    file = cli.state / "leases.sqlite3"
    message = damage(file)
    before = contents(file)
    for result in at_once(cli, *COMMANDS[:2]):
        assert message in result.error()
    assert contents(file) == before


def contents(file: Path) -> tuple[int, bytes | None]:
    """Return the content of a file, and its mode."""
    content = file.read_bytes() if file.is_file() else None
    return file.stat().st_mode, content


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """Mount something for a while; the last argument is where."""
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", arguments[-1]], check=True)


def test_leases_on_a_readonly_filesystem(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(2)
    acquire(cli, "a")
    file = cli.state / "leases.sqlite3"
    before = contents(file)
    with mounted("--bind", cli.state, cli.state):
        remount = ["mount", "-o", "remount,ro,bind", str(cli.state)]
        subprocess.run(remount, check=True)
        # Only to look needs nothing else.
        assert [*held(cli)] == ["a"]
        for result in at_once(cli, "lease acquire b", "lease release a"):
            error = result.error()
            assert str(cli.state) in error
            assert error.endswith(
                "; mount it for writing, or take another path"
            )
        assert contents(file) == before


def test_leases_on_a_full_disk(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(2)
    cli.state.mkdir()
    file = cli.state / "leases.sqlite3"
    options = ("-t", "tmpfs", "-o", "size=1M,mode=700", "none")
    with mounted(*options, cli.state):
        acquire(cli, "a")
        before = contents(file)
        filler = cli.state / "filler"
        with filler.open("wb", buffering=0) as stream, suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        acquired, released = at_once(cli, *COMMANDS[::2])
        for result in (acquired, released):
            said = f"{file}: database or disk is full; make room there"
            assert said in result.error()
        assert contents(file) == before
        filler.unlink()
        assert acquire(cli, "b") == both(1)[0]
