# SPDX-License-Identifier: Apache-2.0
"""Network devices of a namespace (:manpage:`rtnetlink(7)`)."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from lxc_userns.linux import namespaces
from lxc_userns.linux.process import Process

#: linux/netlink.h and linux/rtnetlink.h.
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ERROR, _DONE = 2, 3
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_REQUEST_DUMP = 0x301
_REQUEST_ONE = 0x1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _INFO_KIND = 1, 3, 18, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_LOOPBACK = 0x8
_SCOPE_LINK = 253
#: Of each are looked at no more: a container can make any number.
_MOST = 32
_LONGEST, _TIMEOUT = 1 << 16, 5.0

_Attributes = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class NetworkDevice:
    """A network device, as its namespace has it.

    :param name: its name; the owner of the namespace chooses it.
    :param mac: its MAC address; empty if it is of a kind without.
    :param addresses: its IP addresses, each with the length of its prefix;
        those that count on the link alone come last.
    """

    name: str
    mac: str
    addresses: tuple[str, ...]


def read_devices(namespace: int) -> list[NetworkDevice]:
    """Return the network devices of a namespace, without its loopback.

    :param namespace: descriptor of it.
    :returns: the first 32, each with its first 32 addresses.
    :raises OSError: if it cannot be entered, or does not answer.
    """
    # A socket stays in the namespace in which it was made, and the thread
    # that has entered it is not used again.
    with ThreadPoolExecutor(1) as thread:
        for_links, for_addresses = thread.submit(_connect, namespace).result()
    # Two, for the kernel begins no dump before the last was read to its end.
    with for_links, for_addresses:
        links = {
            index: found
            for index, flags, found in _links(for_links)
            if not flags & _LOOPBACK
        }
        addresses: dict[int, list[tuple[bool, str]]] = {}
        for index, scope, address in _addresses(for_addresses):
            of_link = addresses.setdefault(index, [])
            if len(of_link) < _MOST:
                of_link.append((scope >= _SCOPE_LINK, address))
    return [
        NetworkDevice(
            found.get(_IFLA_IFNAME, b"")
            .rstrip(b"\0")
            .decode(errors="replace"),
            ":".join(f"{byte:02x}" for byte in found.get(_IFLA_ADDRESS, b"")),
            tuple(text for _, text in sorted(addresses.get(index, ()))),
        )
        for index, found in sorted(links.items())
    ]


def read_kind(namespace: int, name: str) -> str:
    """Return what kind of network device one of a namespace is.

    :param namespace: descriptor of it.
    :returns: as :manpage:`ip-link(8)` has it, ``bridge`` for one; empty for
        a loopback device and most hardware.
    :raises OSError: if there is none of this name, or as :func:`read_devices`.
    """
    value = name.encode() + b"\0"
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), _IFLA_IFNAME)
    request = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute + value
    request += bytes(_align(len(request)) - len(request))
    with ThreadPoolExecutor(1) as thread:
        connection, other = thread.submit(_connect, namespace).result()
    with connection, other:
        answers = _ask(connection, _GETLINK, _NEWLINK, request, _REQUEST_ONE)
        found = _attributes(next(answers)[_LINK.size :])
    info = _attributes(found.get(_IFLA_LINKINFO, b""))
    return info.get(_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")


def devices_of(process: Process) -> list[NetworkDevice]:
    """Return the network devices of a process; none if they are the caller's.

    :raises OSError: as :func:`read_devices`, or if it has ended.
    """
    with Process("self") as this:
        if process.namespace("net") == this.namespace("net"):
            return []
    with process.opened_namespace("net") as namespace:
        return read_devices(namespace)


def _connect(namespace: int) -> tuple[socket.socket, socket.socket]:
    namespaces.setns(namespace, namespaces.CLONE_NEWNET)
    one, other = (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        for _ in range(2)
    )
    one.settimeout(_TIMEOUT)
    other.settimeout(_TIMEOUT)
    return one, other


def _links(
    connection: socket.socket,
) -> Iterator[tuple[int, int, _Attributes]]:
    """Yield index, flags and attributes of each link."""
    request = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    for data in islice(_ask(connection, _GETLINK, _NEWLINK, request), _MOST):
        _, _, index, flags, _ = _LINK.unpack_from(data)
        yield index, flags, _attributes(data[_LINK.size :])


def _addresses(connection: socket.socket) -> Iterator[tuple[int, int, str]]:
    """Yield the link's index, the scope and the text of each address."""
    request = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    found = _ask(connection, _GETADDR, _NEWADDR, request)
    for data in islice(found, _MOST * _MOST):
        _, prefix, _, scope, index = _ADDRESS.unpack_from(data)
        attributes = _attributes(data[_ADDRESS.size :])
        # Of a point-to-point link the other is the peer's.
        raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b"")
        if len(raw) in (4, 16):
            yield index, scope, f"{ipaddress.ip_address(raw)}/{prefix}"


def _ask(
    connection: socket.socket,
    request: int,
    answer: int,
    body: bytes,
    flags: int = _REQUEST_DUMP,
) -> Iterator[bytes]:
    """Yield the bodies of the kernel's answers to a request, by default all.

    A request for one has no end but its answer.
    """
    length = _HEADER.size + len(body)
    header = _HEADER.pack(length, request, flags, request, 0)
    connection.send(header + body)
    while True:
        data = connection.recv(_LONGEST)
        while data:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            message, data = data[_HEADER.size : length], data[_align(length) :]
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", message)[0]
                raise OSError(code or errno.EPROTO, os.strerror(code))
            if kind == answer:
                yield message


def _attributes(data: bytes) -> _Attributes:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_align(length) :]
    return found


def _align(length: int) -> int:
    return (length + 3) & ~3
