# SPDX-License-Identifier: Apache-2.0
"""Compute service that takes JSON requests on a UNIX socket.

usage: compute_service.py CONFIG SOCKET

One request a line, one answer a line::

    {"do": "spawn", "name": "web", "rootfs": "/srv/web", "init": ["/bin/sh"]}
    {"do": "stop", "name": "web"}

``do`` is ``spawn``, ``start``, ``stop``, ``delete`` or ``list``. ``spawn``
takes ``memory`` in MiB (256) and ``volumes`` too, each as ``/srv/data:/data``.
An answer is ``{"ok": ...}`` or ``{"error": "one line"}``.

Root alone may ask. The directories that CONFIG names as ``state_path`` and
``run_path`` have to be this service's own.
"""

import json
import logging
import os
import signal
import socket
import socketserver
import struct
import sys
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from typing import Any

import libvirt
from oslo_config import cfg

import lxc_userns

_LONGEST = 1 << 16
_TIMEOUT = 60.0
_MEMORY = range(16, 1 << 20)
#: Tells its domains from those of others.
_MARK = "{urn:example:compute-service}instance"
_LOG = logging.getLogger("compute_service")


class RequestError(Exception):
    """A request is not one that can be answered."""


class Service:
    """Containers of this service.

    :param conf: its configuration.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._manager = lxc_userns.UserNamespaceManager(conf)
        self._connection: Any = None

    @property
    def _libvirt(self) -> Any:
        """A connection that outlives a restart of libvirtd."""
        if self._connection is None or not self._connection.isAlive():
            self._connection = libvirt.open("lxc:///")
        return self._connection

    def answer(self, line: bytes) -> dict[str, object]:
        """Do what a line asks for, and answer it."""
        try:
            request = _parse(line)
            verbs: dict[str, Callable[[Mapping[str, Any]], object]] = {
                "spawn": self._spawn,
                "start": lambda it: self._start(_text(it, "name")),
                "stop": lambda it: self._stop(_text(it, "name")),
                "delete": lambda it: self._delete(_text(it, "name")),
                "list": lambda _: self._list(),
            }
            verb = request.get("do")
            if not isinstance(verb, str) or verb not in verbs:
                raise RequestError(f"do: expected one of {', '.join(verbs)}")
            return {"ok": verbs[verb](request)}
        except (
            RequestError,
            lxc_userns.LxcUsernsError,
            libvirt.libvirtError,
        ) as err:
            return {"error": " ".join(str(err).split())}
        except Exception:
            _LOG.exception("a request failed")
            return {"error": "a fault of the service; its log has more"}

    def _spawn(self, request: Mapping[str, Any]) -> dict[str, object]:
        name = _text(request, "name")
        if self._find(name, any_owner=True) is not None:
            raise RequestError(f"{name}: libvirt has a domain of that name")
        xml = _domain(name, _texts(request, "init"), _memory(request))
        identity = str(uuid.uuid4())
        prepared = self._manager.prepare(
            lxc_userns.InstanceRequest(
                name=name,
                uuid=identity,
                rootfs=_text(request, "rootfs"),
                volumes=tuple(
                    map(lxc_userns.Volume.parse, _texts(request, "volumes"))
                ),
            )
        )
        try:
            self._libvirt.defineXML(prepared.apply_to(xml))
            pid = self._run(prepared)
        except BaseException:
            # Refused if it runs, for another request has started it.
            self._manager.release(name)
            self._delete(name)
            raise
        return {"name": name, "uuid": identity, "pid": pid}

    def _run(self, prepared: lxc_userns.PreparedInstance) -> int:
        self._libvirt.lookupByName(prepared.name).create()
        return self._manager.verify(prepared, started=True).pid

    def _start(self, name: str) -> dict[str, object]:
        domain = self._own(name)
        if domain.isActive():
            raise RequestError(f"{name}: is running")
        prepared = self._manager.prepare(name)
        try:
            return {"name": name, "pid": self._run(prepared)}
        except BaseException:
            self._manager.unmount(name)  # Refused in the same way.
            raise

    def _stop(self, name: str) -> dict[str, object]:
        domain = self._own(name)
        if domain.isActive():
            domain.destroy()
        self._manager.unmount(name)
        return {"name": name}

    def _delete(self, name: str) -> dict[str, object]:
        domain = self._find(name)
        if domain is not None:
            if domain.isActive():
                domain.destroy()
            domain.undefine()
        self._manager.release(name)
        return {"name": name}

    def _list(self) -> list[dict[str, object]]:
        return [
            {"name": each.name(), "running": bool(each.isActive())}
            for each in self._libvirt.listAllDomains()
            if _is_own(each)
        ]

    def _own(self, name: str) -> Any:
        domain = self._find(name)
        if domain is None:
            raise RequestError(f"{name}: there is no such instance")
        return domain

    def _find(self, name: str, *, any_owner: bool = False) -> Any:
        for domain in self._libvirt.listAllDomains():
            if domain.name() == name and (any_owner or _is_own(domain)):
                return domain
        return None


def _is_own(domain: Any) -> bool:
    root = ElementTree.fromstring(domain.XMLDesc())  # noqa: S314 - libvirt's
    return root.find(f"metadata/{_MARK}") is not None


def _domain(name: str, init: list[str], memory: int) -> str:
    """Make a domain that has what only the service knows."""
    root = ElementTree.Element("domain", type="lxc")
    ElementTree.SubElement(root, "name").text = name
    metadata = ElementTree.SubElement(root, "metadata")
    ElementTree.SubElement(metadata, _MARK)
    ElementTree.SubElement(root, "memory", unit="MiB").text = str(memory)
    system = ElementTree.SubElement(root, "os")
    ElementTree.SubElement(system, "type").text = "exe"
    for number, text in enumerate(init or ["/sbin/init"]):
        tag = "initarg" if number else "init"
        ElementTree.SubElement(system, tag).text = text
    devices = ElementTree.SubElement(root, "devices")
    ElementTree.SubElement(devices, "console", type="pty")
    return ElementTree.tostring(root, encoding="unicode")


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > _LONGEST or not line.endswith(b"\n"):
        raise RequestError(f"a request is a line of at most {_LONGEST} bytes")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError("a request is a line of JSON") from None
    if not isinstance(found, dict):
        raise RequestError("a request is an object")
    return found


def _text(request: Mapping[str, Any], key: str) -> str:
    found = request.get(key)
    if not isinstance(found, str) or not found.isprintable():
        raise RequestError(f"{key}: expected printable text")
    return found


def _texts(request: Mapping[str, Any], key: str) -> list[str]:
    found = request.get(key, [])
    if not isinstance(found, list):
        raise RequestError(f"{key}: expected a list of texts")
    return [_text({key: each}, key) for each in found]


def _memory(request: Mapping[str, Any]) -> int:
    found = request.get("memory", 256)
    if type(found) is not int or found not in _MEMORY:
        reason = f"expected {_MEMORY.start} to {_MEMORY.stop - 1} MiB"
        raise RequestError(f"memory: {reason}")
    return found


class _Handler(socketserver.StreamRequestHandler):
    """Answers the lines of one connection."""

    timeout = _TIMEOUT

    def handle(self) -> None:
        """Answer each line, until there is none or one is too long."""
        service: Service = self.server.service  # type: ignore[attr-defined]
        while line := self.rfile.readline(_LONGEST + 1):
            answer = service.answer(line)
            self.wfile.write(json.dumps(answer).encode() + b"\n")
            if not line.endswith(b"\n"):
                return


class Server(socketserver.ThreadingUnixStreamServer):
    """Listens where root alone may connect.

    :param path: the socket.
    :param service: answers requests.
    """

    daemon_threads = True

    def __init__(self, path: str, service: Service) -> None:
        self.service = service
        before = os.umask(0o177)
        try:
            super().__init__(path, _Handler)
        finally:
            os.umask(before)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Tell whether who has connected is the user of this service."""
        kind = socket.SO_PEERCRED
        peer = request.getsockopt(socket.SOL_SOCKET, kind, 12)
        _pid, uid, _gid = struct.unpack("3i", peer)
        return bool(uid == os.geteuid())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a connection that broke."""
        _LOG.warning("a connection failed: %s", sys.exc_info()[1])


def _end(_number: int, _frame: object) -> None:
    raise SystemExit


def main() -> None:
    """Serve until SIGTERM."""
    config, path = sys.argv[1:]
    signal.signal(signal.SIGTERM, _end)
    # Errors come as exceptions; libvirt would print them as well.
    libvirt.registerErrorHandler(lambda *_: None, None)
    conf = cfg.ConfigOpts()
    lxc_userns.register_opts(conf)
    conf([], default_config_files=[config])
    with Server(path, Service(conf)) as server:
        try:
            server.serve_forever()
        finally:
            os.unlink(path)


if __name__ == "__main__":
    main()
