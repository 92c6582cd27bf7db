# SPDX-License-Identifier: Apache-2.0
"""A user who is not root, as a compute service has one of its own.

A host that has one needs three things, which are made here for the length of a
test, in the mount namespace of ``tools/private-libvirtd``: a user, access to
libvirt's socket for its group, and a way for it to start ``privsep-helper``
as root, by sudo alone or by sudo and rootwrap.
"""

import contextlib
import os
import re
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

ETC = Path(__file__).parents[2] / "etc/lxc-userns"
SUDOERS = """\
Defaults !requiretty, !lecture, !syslog, !use_pty
Defaults secure_path = /usr/sbin:/usr/bin:/sbin:/bin
root ALL=(ALL:ALL) ALL
"""

ROOTWRAP = """\
[DEFAULT]
filters_path = {directory}/filters
exec_dirs = {bin}
use_syslog = False
"""

#: Of Nova's own privileged functions, and of those that connect volumes.
CONTEXTS = (
    r"nova\.privsep\.sys_admin_pctxt",
    r"os_brick\.privileged\.default",
)


def shipped_line(name: str, **places: str) -> str:
    """The line of a file for sudo that is shipped, for other places.

    :param name: the file's.
    :param places: regular expressions by what they stand for: ``helper``,
        ``config`` and ``sockets``, the start of names of sockets.
    """
    (line,) = [
        each
        for each in (ETC / name).read_text().splitlines()
        if each and not each.startswith("#")
    ]
    for shipped, key in (
        ("/usr/bin/privsep-helper", "helper"),
        ("/usr/local/sbin/lxc-userns-privsep-helper", "helper"),
        (r"/etc/nova/nova\.conf", "config"),
        ("/tmp/tmp", "sockets"),
    ):
        line = line.replace(shipped, places.get(key, shipped))
    return f"{NAME}{line.removeprefix('nova')}\n"


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
        what sudo allows is for Novas beside it.
    :param helper: ``sudo`` or ``rootwrap``.
    """
    words = ["sudo", "--non-interactive"]
    if helper == "rootwrap":
        # It lets every privsep-helper through, without a filter.
        (directory / "filters").mkdir()
        configuration = directory / "rootwrap.conf"
        configuration.write_text(ROOTWRAP.format(directory=directory, bin=BIN))
        program = f"{BIN}/nova-rootwrap {configuration}"
        words += [*program.split(), "privsep-helper"]
        sudoers = f"{SUDOERS}{NAME} ALL=(root) NOPASSWD: {program} *\n"
    else:
        words.append(f"{BIN}/privsep-helper")
        nova = re.escape(f"{directory.parent}/nova-") + "[a-z0-9_]+"
        ours = shipped_line(
            "lxc-userns.sudoers",
            helper=f"{BIN}/privsep-helper",
            config=rf"{nova}/nova\.conf",
            sockets=f"{nova}/tmp/tmp",
        )
        theirs = [
            ours.replace(r"lxc_userns\.privileged\.CONTEXT", context)
            for context in CONTEXTS
        ]
        sudoers = "".join((SUDOERS, ours, *theirs))
    with ExitStack() as stack:
        add_user(stack, directory, sudoers)
        open_socket(stack)
        yield User(ID, ID, tuple(words))


def add_user(stack: ExitStack, directory: Path, sudoers: str) -> None:
    """Make a user, and lines for sudo in place of the host's.

    :param directory: an empty one of root's.
    """
    passwd = f"{NAME}:*:{ID}:{ID}::/nonexistent:/bin/sh\n"
    for path, text in (
        ("/etc/passwd", Path("/etc/passwd").read_text() + passwd),
        ("/etc/group", Path("/etc/group").read_text() + f"{NAME}:*:{ID}:\n"),
        ("/etc/sudoers", sudoers),
    ):
        cover(stack, Path(path), directory, text)


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
