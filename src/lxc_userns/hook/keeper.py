# SPDX-License-Identifier: Apache-2.0
"""Keeper: serves the next calls of the hook with all modules loaded.

To load them takes some times as long as what a call does, and libvirtd waits
for each call. So the first call leaves a process behind that forks for each
later one, and ends when there has been none for a while. Whatever is wrong
with it, a call does its work by itself
(:mod:`lxc_userns.libvirtd.hook_client`).

It serves no one but root, in the namespaces and under the security label that
it has itself, and ends when a module that it has loaded has changed on disk.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import NoReturn

from lxc_userns.config import snapshot
from lxc_userns.config.settings import Settings
from lxc_userns.hook.calls import call
from lxc_userns.hook.guests import HookGuests
from lxc_userns.libvirtd import hook_client as client
from lxc_userns.linux import directory
from lxc_userns.services import Services

_BACKLOG = 64
_UMASK = 0o022
#: Bytes of arguments and environment.
_LONGEST = 1 << 17
_LONGEST_XML = 16 << 20
#: What a process of libvirtd's and one of ours have to have in common.
_SURROUNDINGS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def start(settings: Settings, place: str = client.PLACE) -> None:
    """Leave a keeper behind; the caller goes on.

    :param settings: how long it waits for calls after the last one.
    :param place: directory for its socket, made if missing.
    """
    if os.fork():
        return
    try:
        _detach()
        _serve(settings, place)
    finally:
        os._exit(0)


def _detach() -> None:
    os.setsid()
    os.chdir("/")
    # libvirtd reads until no one has the other end any more.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _serve(settings: Settings, place: str) -> None:
    """Serve calls, until there are none."""
    _load(settings)
    loaded = _modules()
    with directory.open_private(place, 0o700):
        path = client.socket_path(place)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    new = f"{path}.{os.getpid()}"
    listener.bind(new)
    listener.listen(_BACKLOG)
    number = os.stat(new).st_ino
    # In place of one that was killed.
    os.rename(new, path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while poll.poll(settings.hook_linger * 1000):
        connection, _ = listener.accept()
        # Else the caller does its work by itself.
        if not _is(path, number) or _modules() != loaded:
            break
        with connection:
            if os.fork() == 0:
                listener.close()
                _answer(connection)
    if _is(path, number):
        os.unlink(path)


def _is(path: str, number: int) -> bool:
    """Return whether a socket is the one of an inode number."""
    with suppress(FileNotFoundError):
        return os.stat(path).st_ino == number
    return False


def _load(settings: Settings) -> None:
    """Load what calls need; what the first one has needed is there."""
    services = Services(settings, HookGuests("", "", ""))
    _ = services.planner, services.releaser, services.verifier
    services.preparation(None)
    # Those of the first call are of its domain.
    logging.getLogger("lxc_userns").handlers.clear()


def _modules() -> dict[str, snapshot.Identity]:
    """Return the identity of each file that is loaded of this package."""
    files = (
        getattr(module, "__file__", None)
        for name, module in sys.modules.items()
        if name.partition(".")[0] == "lxc_userns"
    )
    return snapshot.identify(file for file in files if file)


def _answer(connection: socket.socket) -> NoReturn:
    """Do what a client asks for, as that process would, and end."""
    status = b""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request, messages, _, _ = connection.recvmsg(
            _LONGEST, socket.CMSG_SPACE(8)
        )
        if request and _is_like_this(connection):
            fds = array.array("i", messages[0][2])
            status = _do(connection, request, *fds)
    finally:
        # Without an answer the client does it by itself.
        with suppress(OSError):
            connection.send(status)
        os._exit(0)


def _is_like_this(connection: socket.socket) -> bool:
    """Return whether a client is what this process was forked from."""
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    pid, uid, _ = struct.unpack("3i", credentials)
    return uid == os.geteuid() and _read(pid) == _read(os.getpid())


def _read(pid: int) -> tuple[object, ...]:
    """Return what has to be the same."""
    root = os.stat(f"/proc/{pid}/root")
    label = b""
    # There may be no security module.
    with suppress(OSError), open(f"/proc/{pid}/attr/current", "rb") as file:
        label = file.read()
    spaces = (os.readlink(f"/proc/{pid}/ns/{each}") for each in _SURROUNDINGS)
    return root.st_dev, root.st_ino, label, *spaces


def _do(
    connection: socket.socket, request: bytes, memory: int, error: int
) -> bytes:
    """Do a call, and return its exit code.

    :param memory: descriptor of the domain's XML.
    :param error: descriptor of the client's standard error.
    """
    _end_with(connection)
    os.umask(_UMASK)
    (name, operation, *files), environment = client.decode(request)
    os.environb.clear()
    os.environb.update(environment)
    os.dup2(error, 2)
    xml = os.pread(memory, _LONGEST_XML, 0)
    status = call(name, operation, xml, files or None)
    sys.stderr.flush()
    return bytes([status])


def _end_with(connection: socket.socket) -> None:
    """Let the kernel kill this process when its client has hung up.

    libvirtd counts on that what it has killed does nothing any more.
    """
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    # It may have been killed before.
    if poll.poll(0):
        os._exit(0)
