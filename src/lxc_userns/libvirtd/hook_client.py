# SPDX-License-Identifier: Apache-2.0
"""Client of the hook's keeper, see :mod:`lxc_userns.hook.keeper`.

It loads next to nothing: that is what the keeper is for.
"""

from __future__ import annotations

import os

# Not socket, which loads more than a call of the hook can bear.
from _socket import AF_UNIX, SO_PEERCRED, SOCK_SEQPACKET, SOL_SOCKET, socket
from sys import byteorder

#: Directory of root's alone, gone after a reboot.
PLACE = "/run/lxc-userns-hook"
_SCM_RIGHTS = 1
_UCRED_SIZE = 12


def ask(
    name: str,
    operation: str,
    xml: bytes,
    files: list[str],
    place: str = PLACE,
) -> int | None:
    """Let the keeper do a call.

    :param name: name of the domain.
    :param operation: name of the step.
    :param xml: the domain's XML.
    :param files: configuration files instead of the usual ones.
    :param place: directory of the keeper's socket.
    :returns: exit code; None if there is no keeper, or it does not do it.
    """
    try:
        connection = _connect(place, socket_path(place))
    except OSError:
        return None
    memory = os.memfd_create("domain")
    try:
        os.write(memory, xml)
        connection.sendmsg(
            [encode([name, operation, *files])],
            [(SOL_SOCKET, _SCM_RIGHTS, pack_fds(memory, 2))],
        )
        answer = connection.recv(1)
    except OSError:
        return None
    finally:
        os.close(memory)
        connection.close()
    return answer[0] if answer else None


def stop(place: str = PLACE) -> None:
    """End the keeper; nothing happens without one.

    :param place: directory of its socket.
    """
    path = socket_path(place)
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.unlink(path)
        # A keeper whose socket has gone ends when it is asked.
        _connect(place, f"/proc/self/fd/{fd}").close()
    except OSError:
        pass
    finally:
        os.close(fd)


def encode(words: list[str]) -> bytes:
    """Return a request: arguments and environment of the caller."""
    count = str(len(words)).encode()
    variables = [name + b"=" + value for name, value in os.environb.items()]
    return b"\0".join([count, *map(os.fsencode, words), *variables])


def decode(request: bytes) -> tuple[list[str], dict[bytes, bytes]]:
    """Return what :func:`encode` was given, and the environment."""
    count, *rest = request.split(b"\0")
    words = [os.fsdecode(word) for word in rest[: int(count)]]
    variables = (each.partition(b"=") for each in rest[int(count) :])
    return words, {name: value for name, _, value in variables}


def pack_fds(*fds: int) -> bytes:
    """Return descriptors as a message on a socket has them."""
    return b"".join(fd.to_bytes(4, byteorder) for fd in fds)


def socket_path(place: str) -> str:
    """Return where the keeper of this mount namespace has its socket."""
    return f"{place}/{os.stat('/proc/self/ns/mnt').st_ino}.socket"


def _connect(place: str, path: str) -> socket:
    status = os.lstat(place)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(place)
    connection = socket(AF_UNIX, SOCK_SEQPACKET)
    try:
        connection.connect(path)
        found = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED_SIZE)
        if int.from_bytes(found[4:8], byteorder) != os.geteuid():
            raise PermissionError(place)
    except OSError:
        connection.close()
        raise
    return connection
