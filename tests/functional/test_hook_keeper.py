# SPDX-License-Identifier: Apache-2.0
"""The process that the hook leaves behind for further calls."""

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from lxc_userns.instances.store import InstanceStore
from lxc_userns.libvirtd import hook_client
from tests.functional.command_line import PROGRAM, CommandLine
from tests.functional.conftest import CommandLineFactory
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")


@pytest.fixture
def cli(command_line: CommandLineFactory) -> Iterator[CommandLine]:
    """The program, and no keeper before or afterwards."""
    hook_client.stop()
    # Longer than a test waits.
    yield command_line("hook_linger = 60\nhook_timeout = 300\n")
    hook_client.stop()


@pytest.fixture
def xml(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> str:
    """The XML of a container that is stopped."""
    busybox_rootfs.parent.chmod(0o700)
    argv = [
        "web",
        "--rootfs",
        str(busybox_rootfs),
        "--init",
        "/bin/sleep 9999",
    ]
    cli.json("container", "run", *argv)
    assert cli("container", "stop", "web", "--timeout", "0").code == 0
    return str(libvirt_connection.lookupByName("web").XMLDesc())


def start(cli: CommandLine, step: str) -> subprocess.Popen[str]:
    argv = [str(PROGRAM.with_name("lxc-userns-hook")), "--config-file"]
    argv += [str(cli.config), "web", step, "begin", "-"]
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def call(cli: CommandLine, step: str, xml: str) -> tuple[int, str]:
    with start(cli, step) as process:
        _, told = process.communicate(xml, timeout=60)
    return process.returncode, told


def keeper() -> int | None:
    """Return the process ID of the keeper that a call finds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        try:
            client.connect(hook_client.socket_path(hook_client.PLACE))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        credentials = client.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
    return int(struct.unpack("3i", credentials)[0])


def is_there() -> bool:
    return os.path.exists(hook_client.socket_path(hook_client.PLACE))


def test_serves_later_calls(cli: CommandLine, xml: str) -> None:
    assert call(cli, "prepare", xml) == (0, "")
    assert cli.mounts() != []
    wait_for(is_there)
    asked = [sys.executable, "-c", ASKED.format(files=[str(cli.config)])]
    for step in ("release", "prepare", "release"):
        done = subprocess.run(
            [*asked, step], input=xml, text=True, capture_output=True
        )
        assert done.stderr == ""
        assert done.returncode == 0
        assert bool(cli.mounts()) == (step == "prepare")


ASKED = """\
import sys
from lxc_userns.libvirtd import hook_client
done = hook_client.ask(
    "web", sys.argv[1], sys.stdin.buffer.read(), {files}
)
loaded = {{"json", "enum", "socket"}} & {{*sys.modules}}
assert not loaded, loaded
sys.exit(77 if done is None else done)
"""


def test_errors_and_exit_codes_are_the_same(
    cli: CommandLine, xml: str
) -> None:
    edited = xml.replace("<privnet/>", "")
    first = call(cli, "prepare", edited)
    wait_for(is_there)
    assert call(cli, "prepare", edited) == first
    assert first[0] == 1
    assert "its XML lacks <privnet/>" in first[1]
    call(cli, "release", xml)


def test_reads_the_configuration_of_now(cli: CommandLine, xml: str) -> None:
    call(cli, "release", xml)
    wait_for(is_there)
    text = cli.config.read_text()
    cli.config.write_text(text.replace("hook_linger = 60", "hook_linger = x"))
    code, told = call(cli, "prepare", xml)
    assert code == 1
    assert "hook_linger" in told
    cli.config.write_text(text)
    assert call(cli, "prepare", xml) == (0, "")
    assert call(cli, "release", xml) == (0, "")


def test_killed_with_the_call(cli: CommandLine, xml: str) -> None:
    """Nothing is done any more for a call that libvirt has killed."""
    call(cli, "release", xml)
    wait_for(is_there)
    pid = keeper()
    children = Path(f"/proc/{pid}/task/{pid}/children")
    # That of the look.
    wait_for(lambda: not children.read_text())
    with (
        InstanceStore(str(cli.state)).lock("web"),
        start(cli, "prepare") as process,
    ):
        assert process.stdin is not None
        process.stdin.write(xml)
        process.stdin.close()
        wait_for(children.read_text)
        process.kill()
        wait_for(lambda: not children.read_text())
    assert cli.mounts() == []


def test_killed_itself(cli: CommandLine, xml: str) -> None:
    """The call does its work by itself, and leaves a new one."""
    call(cli, "release", xml)
    wait_for(is_there)
    first = keeper()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: keeper() is None)
    assert call(cli, "prepare", xml) == (0, "")
    assert cli.mounts() != []
    wait_for(keeper)
    assert call(cli, "release", xml) == (0, "")
    assert cli.mounts() == []


def test_ends_when_its_time_is_up(cli: CommandLine, xml: str) -> None:
    cli.config.write_text(
        cli.config.read_text().replace("hook_linger = 60", "hook_linger = 1")
    )
    call(cli, "release", xml)
    wait_for(is_there)
    wait_for(lambda: not is_there())


def test_none_is_left_if_none_is_wanted(cli: CommandLine, xml: str) -> None:
    cli.config.write_text(
        cli.config.read_text().replace("hook_linger = 60", "hook_linger = 0")
    )
    assert call(cli, "release", xml) == (0, "")
    assert keeper() is None


def test_serves_no_one_of_another_namespace(
    cli: CommandLine, xml: str
) -> None:
    """Mounts of that one would be seen by no one."""
    call(cli, "release", xml)
    wait_for(is_there)
    code = (
        "import os, sys; from lxc_userns.libvirtd import hook_client as c;"
        f"path = {hook_client.socket_path(hook_client.PLACE)!r};"
        "c.socket_path = lambda place: path;"
        "done = c.ask('web', 'prepare', sys.stdin.buffer.read(), "
        f"[{str(cli.config)!r}]);"
        "sys.exit(77 if done is None else done)"
    )
    argv = ["unshare", "--net", sys.executable, "-c", code]
    done = subprocess.run(argv, input=xml, text=True)
    assert done.returncode == 77
    assert cli.mounts() == []


def test_serves_no_one_but_root(cli: CommandLine, xml: str) -> None:
    call(cli, "release", xml)
    wait_for(is_there)
    place = Path(hook_client.PLACE)
    assert (place.stat().st_uid, place.stat().st_mode & 0o777) == (0, 0o700)
    place.chmod(0o755)
    try:
        assert hook_client.ask("web", "prepare", xml.encode(), []) is None
    finally:
        place.chmod(0o700)
