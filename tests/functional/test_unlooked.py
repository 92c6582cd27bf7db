# SPDX-License-Identifier: Apache-2.0
"""Running containers that cannot be looked at: they run on, and it is said."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import CommandLine, Result

pytestmark = pytest.mark.needs("containers")

#: The program, with a verification that fails for a reason of its own.
FAILING = """
import sys
from lxc_userns import verification
def fail(*_args, **_options):
    raise {error}
verification.observe = fail
from lxc_userns.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
ERRORS = (
    "MemoryError()",
    "OSError(5, 'Input/output error')",
    "ZeroDivisionError('a fault of ours')",
)
INIT = ("--init", "/bin/sleep 1000")
#: Where libvirt's sockets are out of sight.
NO_LIBVIRT = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
    'mount -t tmpfs none /run/libvirt; exec "$@"',
    "sh",
)


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("")


def failing(cli: CommandLine, error: str, *arguments: object) -> Result:
    """Call the program; it fails where it looks at the container."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING.format(error=error), "--config-file",
         cli.config, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def pid(cli: CommandLine) -> int:
    found: int = cli.json("container", "show", "web1")["init_pid"]
    return found


@pytest.mark.parametrize("error", ERRORS)
def test_it_runs_on(
    cli: CommandLine, busybox_rootfs: Path, error: str
) -> None:
    cli.json("container", "run", "web1", "--rootfs", busybox_rootfs, *INIT)
    before = pid(cli)
    said = failing(cli, error, "container", "verify", "web1").error(4)
    assert said.startswith("web1: cannot be looked at: ")
    assert "it runs on, and was not verified" in said
    assert pid(cli) == before
    assert cli("container", "verify", "web1").code == 0


@pytest.mark.parametrize("error", ERRORS)
def test_it_does_not_just_after_its_start(
    cli: CommandLine, busybox_rootfs: Path, error: str
) -> None:
    arguments = ("container", "run", "web1", "--rootfs", busybox_rootfs)
    said = failing(cli, error, *arguments, *INIT).error()
    assert said.startswith("web1: ")
    assert said.endswith("; it was destroyed")
    assert cli.json("container", "list") == []
    assert cli.mounts() == []


def test_exit_codes(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    verify = ("container", "verify", "web1")
    for verb in ("verify", "show", "start", "stop", "destroy"):
        absent = cli("container", verb, "web1")
        assert absent.error(5) == "web1: no such container"
    cli.json("container", "run", "web1", "--rootfs", busybox_rootfs, *INIT)
    unreachable = cli(*verify, prefix=NO_LIBVIRT).error(4)
    assert "is libvirtd (or virtlxcd) running" in unreachable
    before = pid(cli)
    # Another root, which it was not promised.
    record = cli.state / "instances/web1.json"
    text = record.read_text()
    record.write_text(text.replace("1900000000", "1800000000"))
    said = cli(*verify, "--report-only").error()
    assert said.endswith("; it was left as it is")
    assert pid(cli) == before
    assert cli(*verify).error().endswith("; it was destroyed")
    record.write_text(text)
    assert not libvirt_connection.lookupByName("web1").isActive()
    assert cli(*verify).error(4) == "web1: is not running"
    assert cli(*verify, "--nonsense").code == 2
