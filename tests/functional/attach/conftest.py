# SPDX-License-Identifier: Apache-2.0
"""Containers to execute commands in, and a terminal."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from tests.functional.attach.box import KINDS, Box, Terminal, prepare, running
from tests.functional.command_line import CommandLine


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    return command_line("userns_policy = preferred\n")


@pytest.fixture(params=KINDS)
def box(
    request: pytest.FixtureRequest,
    cli: CommandLine,
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
) -> Iterator[Box]:
    root = prepare(reachable_path)
    with running(request.param, cli, libvirt_connection, root) as made:
        yield made


@pytest.fixture
def private(
    cli: CommandLine,
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
) -> Iterator[Box]:
    root = prepare(reachable_path)
    with running("private", cli, libvirt_connection, root) as made:
        yield made


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    for fd in (made.master, made.slave):
        with suppress(OSError):  # A test has hung up.
            os.close(fd)
