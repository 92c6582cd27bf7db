# SPDX-License-Identifier: Apache-2.0
"""Connection plugin of Ansible: commands in containers of this host.

It is ``lxc-userns container exec`` for each command and file, so that what
keeps a container from its host holds here too. See
https://docs.ansible.com/ansible/latest/dev_guide/developing_plugins.html.
"""

from __future__ import annotations

import subprocess
from typing import IO, Any

from ansible.errors import AnsibleConnectionFailure, AnsibleFileNotFound
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: lxc_userns
short_description: commands in containers of this host by lxc-userns
description:
  - Runs commands and copies files by C(lxc-userns container exec), as root
    of the host that has the container.
author: lxc-userns authors
version_added: "0.1"
options:
  remote_addr:
    description: Name of the container.
    type: str
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
      - name: ansible_lxc_userns_container
  remote_user:
    description: User of the container, by name or number; its root if unset.
    type: str
    vars:
      - name: ansible_user
      - name: ansible_lxc_userns_user
  program:
    description: Path of the program.
    type: str
    default: lxc-userns
    vars:
      - name: ansible_lxc_userns_program
"""

#: Exit code of a failure of lxc-userns itself, and how its text begins.
_OWN_FAILURE, _ERROR = 125, b"error: "
_WRITE = 'exec cat > "$1"'
_READ = 'exec cat < "$1"'


class Connection(ConnectionBase):
    """Connection to one container."""

    transport = "lxc_userns"
    has_pipelining = True

    def _connect(self) -> Connection:
        """Connect, for which nothing has to be done."""
        self._connected = True
        return self

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a command line by the container's shell.

        :param in_data: standard input of it.
        :returns: exit code, standard output, standard error.
        :raises AnsibleConnectionFailure: if it cannot be run.
        """
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = self._run("/bin/sh", "-c", cmd, input=in_data or b"")
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file into the container, with the rights of its user.

        :raises AnsibleFileNotFound: if there is no such file here.
        :raises AnsibleConnectionFailure: if it cannot be written.
        """
        super().put_file(in_path, out_path)
        try:
            with open(in_path, "rb") as source:
                done = self._script(_WRITE, out_path, stdin=source)
        except FileNotFoundError:
            raise AnsibleFileNotFound(f"{in_path}: no such file") from None
        _check(done, out_path)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file of the container to this host.

        :raises AnsibleConnectionFailure: if it cannot be read.
        """
        super().fetch_file(in_path, out_path)
        with open(out_path, "wb") as target:
            done = self._script(
                _READ, in_path, stdin=subprocess.DEVNULL, stdout=target
            )
        _check(done, in_path)

    def close(self) -> None:
        """Disconnect, for which nothing has to be done."""
        self._connected = False

    def _script(
        self, script: str, path: str, **streams: int | IO[bytes]
    ) -> subprocess.CompletedProcess[bytes]:
        return self._run("/bin/sh", "-c", script, "sh", path, **streams)

    def _run(
        self, *command: str, **streams: Any
    ) -> subprocess.CompletedProcess[bytes]:
        name, user = self.get_option("remote_addr"), self._user()
        argv = [self.get_option("program"), "container", "exec", *user, name]
        streams.setdefault("stdout", subprocess.PIPE)
        try:
            done = subprocess.run(
                [*argv, "--", *command],
                stderr=subprocess.PIPE,
                check=False,
                **streams,
            )
        except OSError as err:
            raise AnsibleConnectionFailure(f"{argv[0]}: {err}") from None
        if done.returncode == _OWN_FAILURE and done.stderr.startswith(_ERROR):
            raise AnsibleConnectionFailure(_text(done))
        return done

    def _user(self) -> tuple[str, ...]:
        user = self.get_option("remote_user")
        return ("--user", user) if user else ()


def _check(done: subprocess.CompletedProcess[bytes], path: str) -> None:
    if done.returncode:
        raise AnsibleConnectionFailure(f"{path}: {_text(done)}")


def _text(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode(errors="replace").strip()
