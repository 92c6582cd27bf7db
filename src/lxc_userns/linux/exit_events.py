# SPDX-License-Identifier: Apache-2.0
"""Ends of the children of a process, as the kernel tells at once.

Through the connector of the kernel for events of processes (connector.rst,
linux/cn_proc.h), to whoever has CAP_NET_ADMIN in the first PID, user and
network namespaces.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

_NETLINK_CONNECTOR = 11
_SO_ATTACH_FILTER = 26
_GROUP = 1  # CN_IDX_PROC, and CN_VAL_PROC.
_LISTEN, _IGNORE = 1, 2
_NLMSG_DONE = 3
#: Header of netlink, and that of the connector.
_NETLINK = struct.Struct("=IHHII")
_CONNECTOR = struct.Struct("=IIIIHH")
#: Kind, processor and time of an event; then, of an exit, process and thread
#: group, wait status, signal, and the same two of its parent.
_EVENT = struct.Struct("=IIQiiIIii")
_WHAT, _PARENT = 0, 36
_START = _NETLINK.size + _CONNECTOR.size
_EXIT = 0x80000000
#: Instructions of classic BPF (filter.rst).
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_MOST = 4096
#: Number of that namespace's file in every kernel (linux/proc_ns.h).
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


class ExitEvents:
    """Ends of the children of a process, from now on.

    :param parent: its process ID.
    :raises OSError: if the kernel does not tell this process.
    """

    def __init__(self, parent: int) -> None:
        if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
            raise OSError(errno.EPERM, "events have the numbers of another")
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_CONNECTOR,
        )
        try:
            # Before it is bound: of the host's events none but these wake
            # anybody.
            _attach(self._socket, parent)
            self._socket.bind((0, _GROUP))
            self._send(_LISTEN)
        except OSError:
            self._socket.close()
            raise

    def read(self) -> dict[int, int]:
        """Return the wait statuses of those that have ended since.

        :returns: by process ID; empty if none has.
        """
        found = {}
        with suppress(BlockingIOError):
            while True:
                data, (sender, _) = self._socket.recvfrom(_MOST)
                # Others may send to it; the kernel is 0 (netlink(7)).
                if sender == 0 and len(data) >= _START + _EVENT.size:
                    event = _EVENT.unpack_from(data, _START)
                    _, _, _, thread, process, status, *_ = event
                    if thread == process:
                        found[process] = status
        return found

    def close(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            self._send(_IGNORE)
        self._socket.close()

    def _send(self, operation: int) -> None:
        body = struct.pack("=I", operation)
        message = _CONNECTOR.pack(_GROUP, _GROUP, 0, 0, len(body), 0) + body
        size = _NETLINK.size + len(message)
        header = _NETLINK.pack(size, _NLMSG_DONE, 0, 0, os.getpid())
        self._socket.send(header + message)


def subscribe(parent: int) -> ExitEvents | None:
    """Listen for ends of the children of a process, None if no one tells."""
    with suppress(OSError):
        return ExitEvents(parent)
    return None


@contextmanager
def listening(parent: int) -> Iterator[ExitEvents | None]:
    """Listen for a while, as :func:`subscribe`."""
    events = subscribe(parent)
    with ExitStack() as stack:
        if events is not None:
            stack.callback(events.close)
        yield events


def _attach(receiver: socket.socket, parent: int) -> None:
    """Let through what tells of the end of a child of this process."""
    # Words are loaded in the byte order of networks.
    instructions = (
        (_LOAD_WORD, 0, 0, _START + _WHAT),
        (_JUMP_IF_EQUAL, 0, 3, socket.htonl(_EXIT)),
        (_LOAD_WORD, 0, 0, _START + _PARENT),
        (_JUMP_IF_EQUAL, 0, 1, socket.htonl(parent)),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    )
    program = ctypes.create_string_buffer(
        b"".join(_INSTRUCTION.pack(*each) for each in instructions)
    )
    address = ctypes.addressof(program)
    receiver.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HP", len(instructions), address),
    )
