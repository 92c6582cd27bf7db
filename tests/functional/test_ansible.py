# SPDX-License-Identifier: Apache-2.0
"""Ansible's connection plugin, by Ansible itself and a real container."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.functional.command_line import BASE, LONGEST, PROGRAM, CommandLine
from tests.samples import TOP

pytestmark = pytest.mark.needs("containers")

#: With the plugin loaded as Ansible does, for what needs Python inside.
COPY = """
import sys
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader
name, program, verb, source, target = sys.argv[1:]
connection = connection_loader.get("lxc_userns", PlayContext())
connection.set_options(direct={"remote_addr": name, "program": program})
getattr(connection, verb)(source, target)
"""


@dataclass(frozen=True)
class Ansible:
    """Ansible with an inventory of one container."""

    path: Path
    root: Path

    def __call__(
        self, *arguments: str, name: str = "box", user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a module."""
        variables = {
            "ansible_connection": "lxc_userns",
            "ansible_lxc_userns_program": PROGRAM,
            **({} if user is None else {"ansible_user": user}),
        }
        words = (f"{key}={value}" for key, value in variables.items())
        inventory = self.path / "inventory"
        inventory.write_text(f"{name} {' '.join(words)}\n")
        program = Path(sys.executable).with_name("ansible")
        return self.call(program, name, "-i", inventory, *arguments)

    def copy(self, verb: str, source: Path | str, target: Path | str) -> str:
        """Copy a file; what goes wrong is returned."""
        argv = [sys.executable, "-c", COPY, "box", PROGRAM, verb]
        return self.call(*argv, source, target).stderr

    def call(self, *argv: object) -> subprocess.CompletedProcess[str]:
        """Run a program of Ansible's."""
        plugins = TOP / "contrib/ansible/connection_plugins"
        return subprocess.run(
            [str(each) for each in argv],
            env={
                **os.environ,
                "ANSIBLE_CONNECTION_PLUGINS": str(plugins),
                "ANSIBLE_HOME": str(self.path / "home"),
                "ANSIBLE_NOCOLOR": "1",
                # Ansible takes no other.
                "LC_ALL": "C.UTF-8",
            },
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )


@pytest.fixture
def ansible(
    command_line: Callable[[str], CommandLine],
    busybox_rootfs: Path,
    tmp_path: Path,
) -> Ansible:
    (busybox_rootfs / "tmp").mkdir(exist_ok=True)
    (busybox_rootfs / "tmp").chmod(0o1777)
    command_line("").json(
        "container", "run", "box", "--rootfs", busybox_rootfs,
        "--init", "/bin/sleep 1000",
    )  # fmt: skip
    return Ansible(tmp_path, busybox_rootfs)


def test_commands(ansible: Ansible) -> None:
    done = ansible("-m", "raw", "-a", "id -u; cat /proc/self/uid_map")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[1:3] == [
        "0",
        f"         0 {BASE}      65536",
    ]
    assert (
        "\n1000\n" in ansible("-m", "raw", "-a", "id -u", user="alice").stdout
    )
    # Which an inventory has as a number.
    assert (
        "\n1000\n" in ansible("-m", "raw", "-a", "id -u", user="1000").stdout
    )
    failed = ansible("-m", "raw", "-a", "echo 'no way' >&2; exit 7")
    assert "FAILED | rc=7" in failed.stdout
    assert "no way" in failed.stdout


def test_a_script(ansible: Ansible, tmp_path: Path) -> None:
    """It is copied into the container, run there, and removed."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho ran as $(id -u) with $1 >/made\n")
    done = ansible("-m", "script", "-a", f"{script} one")
    assert done.returncode == 0, done
    assert (ansible.root / "made").read_text() == "ran as 0 with one\n"


def test_files(ansible: Ansible, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(data)
    odd = "/a 'name' of $(id)"
    assert ansible.copy("put_file", source, odd) == ""
    assert (ansible.root / odd[1:]).read_bytes() == data
    assert ansible.copy("fetch_file", odd, back) == ""
    assert back.read_bytes() == data
    # A link of the container's is followed inside.
    (ansible.root / "out").symlink_to("/etc/shadow")
    assert "/out: " in ansible.copy("fetch_file", "/out", back)
    assert "no such file" in ansible.copy("put_file", tmp_path / "x", "/x")


@pytest.mark.parametrize(("name", "user"), [("gone", None), ("box", "bob")])
def test_what_is_not_there(
    ansible: Ansible, name: str, user: str | None
) -> None:
    done = ansible("-m", "raw", "-a", "id", name=name, user=user)
    assert done.returncode == 4
    assert "UNREACHABLE!" in done.stdout
    assert "error: " in done.stdout
