# SPDX-License-Identifier: Apache-2.0
"""Files that are shipped for a nova-compute that is not root."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import libvirt
import pytest
from oslo_rootwrap import wrapper

from tests.nova.user import ETC, ID, SUDOERS, User, add_user, shipped_line

LINE, OLDER_LINE = "lxc-userns.sudoers", "lxc-userns-older-sudo.sudoers"
WRAPPER = "lxc-userns-privsep-helper"
STUB = """\
#!/bin/sh
printf '%s\\n' "$(id -u)" "$@"
"""

CONFIG = ("--config-file", "/etc/nova/nova.conf")
CONTEXT = ("--privsep_context", "lxc_userns.privileged.CONTEXT")
SOCKET = ("--privsep_sock_path", "/tmp/tmpabc_1234/privsep.sock")
OTHER = ("--config-file", "/home/nova/evil.conf")
#: Attempts on what oslo.privsep appends.
ATTEMPTS: tuple[tuple[str, ...], ...] = (
    (*CONTEXT, *SOCKET, *OTHER),
    (*OTHER, *CONTEXT, *SOCKET),
    (*CONTEXT, *OTHER, *SOCKET),
    (*CONTEXT, *CONTEXT, *SOCKET),
    (*CONTEXT, *SOCKET, "--privsep_context", "os.system"),
    ("--privsep_context", "os.system", *SOCKET),
    ("--privsep_context", "lxc_usernsxprivileged.CONTEXT", *SOCKET),
    (*CONTEXT, SOCKET[0], f"{SOCKET[1]} {' '.join(OTHER)}"),
    (*CONTEXT, SOCKET[0], f"/tmp/tmpabc {' '.join(OTHER)}/privsep.sock"),
    (*CONTEXT, SOCKET[0], f"{SOCKET[1]}\n{' '.join(OTHER)}"),
    (*CONTEXT, SOCKET[0], f"/tmp/tmpabc_1234\n{SOCKET[1]}"),
    (*CONTEXT, SOCKET[0], "/tmp/tmpabc/../../home/nova/x/privsep.sock"),
    (*CONTEXT, SOCKET[0], "/home/nova/privsep.sock"),
    (*CONTEXT, SOCKET[0], "/tmp/tmp/privsep.sock"),
    (*CONTEXT, SOCKET[0], "/tmp/tmp*/privsep.sock"),
    (*CONTEXT, SOCKET[0], ""),
    (*CONTEXT, *SOCKET, ""),
    CONTEXT,
    (),
)


class Sudo:
    """A user with a line that is shipped, and a helper that only tells.

    :param directory: an empty one of root's, that others can pass through.
    """

    def __init__(self, stack: ExitStack, directory: Path, name: str) -> None:
        directory.chmod(0o711)
        helper = write_program(directory / "privsep-helper", STUB)
        self.program = helper
        if name == OLDER_LINE:
            text = (ETC / WRAPPER).read_text()
            assert text.count("helper=/usr/bin/privsep-helper\n") == 1
            text = text.replace("/usr/bin/privsep-helper", str(helper))
            self.program = write_program(directory / WRAPPER, text)
        line = shipped_line(name, helper=str(self.program))
        add_user(stack, directory, SUDOERS + line)

    def run(self, arguments: Sequence[str]) -> list[str] | None:
        """User and arguments of the helper; None if it is not started."""
        prefix = User(ID, ID, ()).setpriv()
        done = subprocess.run(
            [*prefix, "sudo", "--non-interactive", self.program, *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        assert (done.returncode == 0) == bool(done.stdout), done
        return done.stdout.splitlines() or None


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def sudo(
    request: pytest.FixtureRequest,
    connection: libvirt.virConnect,
    directory: Path,
) -> Iterator[Sudo]:
    """Make one with the file that is the parameter."""
    shown = subprocess.run(["sudo", "-V"], capture_output=True, text=True)
    match = re.search(r"([0-9]+)\.([0-9]+)\.([0-9]+)", shown.stdout)
    assert match is not None, shown
    if request.param == LINE and tuple(map(int, match.groups())) < (1, 9, 10):
        pytest.skip(f"sudo {match[0]} knows no regular expressions")
    with ExitStack() as stack:
        path = Path(tempfile.mkdtemp(prefix="sudo-", dir=directory))
        yield Sudo(stack, path, request.param)


@pytest.mark.parametrize("sudo", [LINE], indirect=True)
def test_a_line_for_sudo(sudo: Sudo) -> None:
    """Anything but what oslo.privsep runs is refused."""
    legitimate = [*CONFIG, *CONTEXT, *SOCKET]
    assert sudo.run(legitimate) == ["0", *legitimate]
    for attempt in ATTEMPTS:
        assert sudo.run([*CONFIG, *attempt]) is None, attempt
    for attempt in (
        (*OTHER, *CONTEXT, *SOCKET),
        (*CONTEXT, *SOCKET),
        ("--config-file", "/etc/nova/novaxconf", *CONTEXT, *SOCKET),
        ("--config-file", "/etc/nova/nova.conf.d/x", *CONTEXT, *SOCKET),
    ):
        assert sudo.run(attempt) is None, attempt


@pytest.mark.parametrize("sudo", [OLDER_LINE], indirect=True)
def test_a_program_for_older_sudo(sudo: Sudo) -> None:
    """It gives the helper its configuration itself."""
    expected = ["0", *CONFIG, *CONTEXT, *SOCKET]
    assert sudo.run([*CONTEXT, *SOCKET]) == expected
    for attempt in ATTEMPTS:
        assert sudo.run(attempt) is None, attempt
    assert sudo.run([*CONFIG, *CONTEXT, *SOCKET]) is None


def test_the_program_is_executable() -> None:
    assert (ETC / WRAPPER).stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", [LINE, OLDER_LINE])
def test_files_for_sudo_are_well_formed(tmp_path: Path, name: str) -> None:
    visudo = shutil.which("visudo", path="/usr/sbin:/usr/bin")
    assert visudo is not None
    copy = tmp_path / "sudoers"
    copy.write_text((ETC / name).read_text())
    copy.chmod(0o440)
    done = subprocess.run([visudo, "-c", "-f", copy], capture_output=True)
    assert done.returncode == 0, done


def test_rootwrap_is_no_boundary(tmp_path: Path) -> None:
    """The documentation says of it that no filter is asked."""
    command = ["privsep-helper", *OTHER, *CONTEXT, *SOCKET]
    loaded = wrapper.load_filters([str(tmp_path)])
    assert any(each.match(command) for each in loaded)
