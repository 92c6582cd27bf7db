# SPDX-License-Identifier: Apache-2.0
"""virt-install and Ansible: what they make is converted, and starts."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import BASE, LONGEST, PROGRAM, CommandLine
from tests.functional.conftest import CommandLineFactory

pytestmark = pytest.mark.needs("containers")

NAME = "others"
COLLECTIONS = Path(sys.prefix, "share/ansible")
#: As the documentation has it, with a file of its own for the program.
PLAYBOOK = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - command: "{program} domain convert {file}"
      register: converted
      changed_when: false
    - community.libvirt.virt:
        command: define
        uri: lxc:///
        xml: "{{{{ converted.stdout }}}}"
    - community.libvirt.virt:
        name: others
        state: running
        uri: lxc:///
"""


@pytest.fixture
def cli(
    command_line: CommandLineFactory,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> Iterator[CommandLine]:
    """The program, with the hook installed."""
    busybox_rootfs.parent.chmod(0o700)
    made = command_line("")
    assert made("host", "hook", "install").code == 0
    yield made
    made("container", "destroy", NAME)
    made("host", "hook", "remove")


def call(*argv: object, stdin: str = "", **environment: str) -> str:
    """Run a program of others, and return what it prints."""
    done = subprocess.run(
        [str(each) for each in argv],
        env={**os.environ, **environment, "LC_ALL": "C.UTF-8"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


def virt_install(rootfs: Path) -> str:
    """Return the domain that virt-install makes of a tree."""
    return call(
        *("virt-install", "--connect", "lxc:///", "--name", NAME),
        *("--memory", "128", "--filesystem", f"{rootfs},/"),
        *("--boot", "init=/bin/sleep,initargs=1000", "--network", "none"),
        "--print-xml",
        # Its interpreter is the one of the system, for its modules are.
        PATH="/usr/sbin:/usr/bin:/sbin:/bin",
    )


def check_private(cli: CommandLine) -> None:
    shown = cli.json("container", "show", NAME)
    assert (shown["state"], shown["mode"]) == ("running", "private")
    rows = Path(f"/proc/{shown['init_pid']}/uid_map").read_text().split()
    assert rows == ["0", str(BASE), "65536"]


def test_virt_install(cli: CommandLine, busybox_rootfs: Path) -> None:
    program = (PROGRAM, "--config-file", cli.config)
    made = virt_install(busybox_rootfs)
    converted = call(*program, "domain", "convert", "-", stdin=made)
    virsh = ("virsh", "-c", "lxc:///")
    call(*virsh, "define", "/dev/stdin", stdin=converted)
    call(*virsh, "start", NAME)
    check_private(cli)


def test_ansible(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    file, playbook = tmp_path / "domain.xml", tmp_path / "playbook.yaml"
    file.write_text(virt_install(busybox_rootfs))
    program = f"{PROGRAM} --config-file {cli.config}"
    playbook.write_text(PLAYBOOK.format(program=program, file=file))
    play = Path(sys.executable).with_name("ansible-playbook")

    def run() -> int:
        printed = call(
            *(play, "-i", "localhost,", "-c", "local", playbook),
            *("-e", f"ansible_python_interpreter={sys.executable}"),
            ANSIBLE_COLLECTIONS_PATH=str(COLLECTIONS),
            ANSIBLE_HOME=str(tmp_path / "home"),
            ANSIBLE_NOCOLOR="1",
        )
        (changed,) = re.findall(r" changed=(\d+) ", printed)
        return int(changed)

    # Defined and started.
    assert run() == 2
    check_private(cli)
    pid = cli.json("container", "show", NAME)["init_pid"]
    # Nothing is done that is done; this module says that it has defined it.
    assert run() <= 1
    assert cli.json("container", "show", NAME)["init_pid"] == pid
