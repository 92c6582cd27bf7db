# SPDX-License-Identifier: Apache-2.0
"""A user who is not root, as a compute service has one of its own.

A host that has one needs three things, which are made here for the length of a
test, in the mount namespace of ``tools/private-libvirtd``: a user, access to
libvirt's socket for its group, and a way for it to start ``privsep-helper``
as root, by sudo alone or by sudo and rootwrap.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
NAME, ID = "nova-test", 64123
SOCKET = Path("/run/libvirt/libvirt-sock")

SUDOERS = """\
Defaults !requiretty, !lecture, !syslog, !use_pty
Defaults secure_path = /usr/sbin:/usr/bin:/sbin:/bin
root ALL=(ALL:ALL) ALL
{name} ALL=(root) NOPASSWD: {program} *
"""

ROOTWRAP = """\
[DEFAULT]
filters_path = {directory}/filters
exec_dirs = {bin}
use_syslog = False
"""

# One line for each privsep context; our own needs one like Nova's.
FILTERS = """\
[Filters]
nova: RegExpFilter, privsep-helper, root, privsep-helper, --config-file, \
{directory}/.*, --privsep_context, nova.privsep.sys_admin_pctxt, \
--privsep_sock_path, .*
lxc_userns: RegExpFilter, privsep-helper, root, privsep-helper, \
--config-file, {directory}/.*, --privsep_context, lxc_userns\\..*, \
--privsep_sock_path, .*
"""


@dataclass(frozen=True)
class User:
    """A user, and how it calls ``privsep-helper`` as root."""

    uid: int
    gid: int
    helper: tuple[str, ...]

    def setpriv(self) -> list[str]:
        """Words before a command that give its process to the user."""
        return [
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            "--inh-caps=-all",
            "--",
        ]


@contextmanager
def made_user(directory: Path, helper: str = "sudo") -> Iterator[User]:
    """Make a user for as long as the context lasts.

    :param directory: an empty one of root's, that others can pass through;
        what rootwrap allows is for configurations beside it.
    :param helper: ``sudo`` or ``rootwrap``.
    """
    words = ["sudo", "--non-interactive"]
    if helper == "rootwrap":
        (directory / "filters").mkdir()
        filters = FILTERS.format(directory=directory.parent)
        (directory / "filters/compute.filters").write_text(filters)
        configuration = directory / "rootwrap.conf"
        configuration.write_text(ROOTWRAP.format(directory=directory, bin=BIN))
        program = f"{BIN}/nova-rootwrap {configuration}"
        words += [*program.split(), "privsep-helper"]
    else:
        program = f"{BIN}/privsep-helper"
        words.append(program)
    sudoers = SUDOERS.format(name=NAME, program=program)
    passwd = f"{NAME}:*:{ID}:{ID}::/nonexistent:/bin/sh\n"
    with ExitStack() as stack:
        for path, text in (
            ("/etc/passwd", Path("/etc/passwd").read_text() + passwd),
            (
                "/etc/group",
                Path("/etc/group").read_text() + f"{NAME}:*:{ID}:\n",
            ),
            ("/etc/sudoers", sudoers),
        ):
            cover(stack, Path(path), directory, text)
        open_socket(stack)
        yield User(ID, ID, tuple(words))


def cover(stack: ExitStack, path: Path, directory: Path, text: str) -> None:
    """Mount a file with another text over one of the host's, as we see it."""
    other = directory / path.name
    other.write_text(text)
    other.chmod(0o440 if path.name == "sudoers" else 0o644)
    mount = ["mount", "--no-mtab", "--bind", str(other), str(path)]
    subprocess.run(mount, check=True)
    stack.callback(uncover, path)


def uncover(path: Path) -> None:
    """Show the host's file again."""
    argv = ["umount", "--no-mtab", "--lazy", str(path)]
    subprocess.run(argv, check=True)


def open_socket(stack: ExitStack) -> None:
    """Let the user's group use libvirt.

    libvirt would ask polkit, by a bus that is not there.
    """
    real = SOCKET.with_name("libvirt-sock.real")
    SOCKET.rename(real)
    stack.callback(real.rename, SOCKET)
    server = stack.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(str(SOCKET))
    stack.callback(SOCKET.unlink)
    os.chown(SOCKET, 0, ID)
    SOCKET.chmod(0o770)
    server.listen()
    threading.Thread(target=accept, args=(server, real), daemon=True).start()
    # Wakes the thread as well.
    stack.callback(server.shutdown, socket.SHUT_RDWR)


def accept(server: socket.socket, real: Path) -> None:
    """Connect each client of one socket to another, until it is closed."""
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            argv = (client, real)
            threading.Thread(target=connect, args=argv, daemon=True).start()


def connect(client: socket.socket, real: Path) -> None:
    """Send what a client sends to a socket, and back, until one ends."""
    with client, socket.socket(socket.AF_UNIX) as target:
        target.connect(str(real))
        argv = (target, client)
        back = threading.Thread(target=pass_on, args=argv, daemon=True)
        back.start()
        pass_on(client, target)
        back.join()


def pass_on(source: socket.socket, target: socket.socket) -> None:
    """Send what comes from one socket to another, and its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
