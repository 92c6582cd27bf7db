# SPDX-License-Identifier: Apache-2.0
"""Containers as libvirt knows them: define, start, inspect, stop.

The only module that speaks to libvirt. libvirt's own errors end here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import TIMEOUT_MAX, Lock, Thread
from typing import Any

from lxc_userns import lazy
from lxc_userns.exceptions import (
    LibvirtError,
    LibvirtUnreachableError,
    NoSuchContainerError,
    NotRunningError,
)
from lxc_userns.libvirtd.guest import Guest, describe
from lxc_userns.libvirtd.init import find_init
from lxc_userns.libvirtd.power_off import power_off
from lxc_userns.linux import locks
from lxc_userns.linux.process import Process

_LOG = logging.getLogger(__name__)
# Half of what all else costs that most commands load.
libvirt: Any = lazy.Module("libvirt")

URI = "lxc:///"
#: Seconds that a container has to stop by itself.
STOP_TIMEOUT = 10.0
_TIMEOUT = 5.0
_POLL = 0.05
# libvirt calls a container started some milliseconds before its first process
# is there.
_INIT_POLL = 0.005


class Guests:
    """The LXC domains of a libvirtd.

    All threads share one connection.

    :param uri: which libvirtd; connected to when first used, and again when
        it was restarted in between.
    :param is_silent: whether to keep libvirt from printing errors, in the
        whole process: for programs, as a library leaves that to its host.
    :param timeout: seconds in which libvirt notices what a container has done,
        and a container what libvirt has; one that was frozen in version 1 does
        not end.
    :param connect: connects to a libvirtd; None for :func:`libvirt.open`.
    :param sleep: waits between looks at a libvirtd, for seconds.

    Each call raises RuntimeError in a thread that holds a lock for which a
    hook of libvirt may wait.
    """

    def __init__(
        self,
        uri: str = URI,
        *,
        is_silent: bool = False,
        timeout: float = _TIMEOUT,
        connect: Callable[[str], Any] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._uri = uri
        self._open_uri, self._sleep = connect, sleep
        self._timeout = timeout
        self._is_silent = is_silent
        self._connection: Any = None
        self._connecting = Lock()

    def version(self) -> str:
        """Return the version of libvirtd, as ``9.0.0``.

        :raises LibvirtError: if it cannot be reached.
        """
        with self._translated("read the version"):
            number = self._connect().getLibVersion()
        return ".".join(
            map(str, (number // 10**6, number // 1000 % 1000, number % 1000))
        )

    def xml(self, name: str) -> str:
        """Return the XML of a domain, as it runs if it does.

        :raises NoSuchContainerError: if there is none of this name.
        """
        with self._translated(f"read the XML of {name}"):
            text: str = self._domain(name).XMLDesc()
        return text

    def capabilities(self) -> str:
        """Return the capabilities of libvirtd on this host, as XML.

        :raises LibvirtError: if it cannot be reached.
        """
        with self._translated("read the capabilities"):
            return str(self._connect().getCapabilities())

    def networks(self) -> dict[str, bool]:
        """Return the names of libvirt's networks, and which are active.

        :raises LibvirtError: if libvirtd has no network driver, or cannot be
            reached.
        """
        with self._translated("list networks"):
            return {
                each.name(): bool(each.isActive())
                for each in self._connect().listAllNetworks()
            }

    def define(self, name: str, xml: str) -> None:
        """Define a domain, or define it anew, with validation.

        :raises LibvirtError: if libvirt refuses it.
        """
        with self._translated(f"define {name}"):
            self._connect().defineXMLFlags(
                xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE
            )

    def undefine(self, name: str) -> None:
        """Undefine a domain; nothing happens if there is none."""
        with self._translated(f"undefine {name}"):
            domain = self._lookup(name)
            if domain is not None:
                self._bring_about(
                    domain.undefine, lambda: self._lookup(name) is None
                )

    def set_autostart(self, name: str, is_on: bool) -> None:
        """Let libvirtd start a domain at the host's boot, or not.

        :raises NoSuchContainerError: if there is none of this name.
        :raises LibvirtError: if libvirt refuses it.
        """
        with self._translated(f"set autostart of {name}"):
            self._domain(name).setAutostart(is_on)

    def start(self, name: str) -> None:
        """Start a domain that is defined.

        :raises NoSuchContainerError: if there is none of this name.
        :raises NotRunningError: if it has ended before libvirt could reach it.
        :raises LibvirtError: if it does not start.
        """
        with self._translated(f"start {name}"):
            domain = self._domain(name)
            try:
                domain.create()
            except libvirt.libvirtError as err:
                if self._is_of_container(err):
                    raise NotRunningError(name) from err
                raise

    def destroy(self, name: str, uuid: str | None = None) -> None:
        """Kill a domain; nothing happens if it is not active.

        :param uuid: of which it has to be, if not of any: another may have
            got the name.
        """
        with self._translated(f"destroy {name}"):
            domain = self._lookup(name)
            if domain is None or not domain.isActive():
                return
            if uuid in (None, domain.UUIDString()):
                # libvirt sends its signals to what cgroup.threads lists; of a
                # thread that is about to end that is 0, which is libvirtd
                # itself (virCgroupKillInternal, version 2).
                self._kill_init(domain.ID())
                self._bring_about(
                    domain.destroy,
                    lambda: not _is_active(self._lookup(name)),
                )

    def has_missed_end(self, name: str) -> bool:
        """Return whether libvirt has missed that a container has ended.

        libvirt 9.0 does so now and then. One that reboots is without a
        process for a moment as well, and is waited for.

        :raises LibvirtError: if libvirt cannot be reached.
        """
        deadline = time.monotonic() + self._timeout
        while (guest := self.find(name)) is not None and guest.is_lost:
            if time.monotonic() > deadline:
                _LOG.info("%s: libvirt has missed its end", name)
                return True
            time.sleep(_POLL)
        return False

    def end_lost(self, name: str, uuid: str) -> None:
        """Make libvirt notice the end of a container that it has missed.

        :param uuid: of which it has to be; another may have got the name.
        :raises LibvirtError: if libvirt cannot be reached.
        """
        if self.has_missed_end(name):
            self.destroy(name, uuid)

    def stop(self, name: str, timeout: float = STOP_TIMEOUT) -> None:
        """Ask a domain to stop, and kill it if it does not.

        :param timeout: seconds to wait in between.
        :raises NoSuchContainerError: if there is none of this name.
        """
        with self._translated(f"stop {name}"):
            domain = self._domain(name)
            if timeout > 0 and domain.isActive():
                # It is killed in time, whatever this comes to.
                try:
                    self._ask(name, domain, timeout)
                except Exception as err:
                    _LOG.info("%s: cannot be asked to stop: %s", name, err)
        self.destroy(name)

    def _ask(self, name: str, domain: Any, timeout: float) -> None:
        """Ask a domain to stop, and wait until it has, or time is up."""
        deadline = time.monotonic() + timeout
        with self.init_process(name) as init:
            # What it has open can be on a filesystem that never answers.
            asking = Thread(target=power_off, args=(init,), daemon=True)
            asking.start()
            asking.join(min(timeout, TIMEOUT_MAX))
            init.wait(max(0, deadline - time.monotonic()))
        # libvirt notices it a moment later, or has missed it.
        rest = max(0, deadline - time.monotonic())
        _wait_inactive(domain, min(rest, self._timeout))

    def find(self, name: str) -> Guest | None:
        """Return the domain of this name, None if there is none."""
        with self._translated(f"look up {name}"):
            domain = self._lookup(name)
            with _skipping_undefined():
                return None if domain is None else describe(domain)
            return None

    def list(self) -> list[Guest]:
        """Return all domains, active and not."""
        with self._translated("list domains"):
            found = []
            for domain in self._connect().listAllDomains():
                with _skipping_undefined():
                    found.append(describe(domain))
            return found

    @contextmanager
    def init_process(self, name: str) -> Iterator[Process]:
        """Hold the first process of an active domain.

        :raises NotRunningError: if the domain is not active, or has ended
            and libvirt has missed that, or has had no such process for some
            seconds: libvirt's own for it may outlive it.
        :raises LibvirtError: if libvirt cannot be reached.
        """
        deadline = time.monotonic() + self._timeout
        # A container that reboots has a new controller in between, and for
        # a moment one without children.
        while (init := find_init(self._controller(name))) is None:
            if time.monotonic() > deadline:
                guest = self.find(name)
                if guest is not None and guest.is_lost:
                    raise NotRunningError(name)
                raise NotRunningError(name, "its first process is not found")
            time.sleep(_INIT_POLL)
        with init:
            yield init

    @contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        locks.check_none_held(operation)
        try:
            yield
        except libvirt.libvirtError as err:
            is_broken = _is_of_connection(err) and not self._is_connected()
            kind = LibvirtUnreachableError if is_broken else LibvirtError
            raise kind(operation, _one_line(err)) from err

    def _is_of_container(self, err: Exception) -> bool:
        """Tell whether libvirtd could not reach a container's process.

        That is the one connection that libvirtd has other than ours.
        """
        return _is_of_connection(err) and self._is_connected()

    def _kill_init(self, controller: int) -> None:
        with suppress(ProcessLookupError):
            init = find_init(controller)
            if init is not None:
                with init:
                    init.kill(self._timeout)

    def _bring_about(self, operation: Any, is_so: Callable[[], bool]) -> None:
        """Do something to a domain; what it comes to counts.

        libvirt reports failures of many kinds for one that has just ended by
        itself, and for one whose control groups systemd has removed before it.
        """
        try:
            operation()
        except libvirt.libvirtError:
            deadline = time.monotonic() + self._timeout
            while not is_so():
                if time.monotonic() > deadline:
                    raise
                self._sleep(_POLL)

    def _is_connected(self) -> bool:
        return self._connection is not None and self._connection.isAlive()

    def _controller(self, name: str) -> int:
        guest = self.find(name)
        if guest is None or guest.controller is None:
            raise NotRunningError(name)
        return guest.controller

    def _domain(self, name: str) -> Any:
        domain = self._lookup(name)
        if domain is None:
            raise NoSuchContainerError(name)
        return domain

    def _lookup(self, name: str) -> Any:
        # By a list, for lookupByName() of a name that there is not has libvirt
        # print so to the standard error of a process without an error
        # handler, which is the process's to choose.
        for domain in self._connect().listAllDomains():
            if domain.name() == name:
                return domain
        return None

    def _connect(self) -> Any:
        with self._connecting:
            if not self._is_answered():
                self._connection = self._open()
            return self._connection

    def _is_answered(self) -> bool:
        # Until it is used, a connection is called alive whose libvirtd ended.
        with suppress(libvirt.libvirtError):
            if self._is_connected():
                self._connection.getLibVersion()
                return True
        return False

    def _open(self) -> Any:
        if self._is_silent:
            libvirt.registerErrorHandler(lambda *_: None, None)
        try:
            return (self._open_uri or libvirt.open)(self._uri)
        except libvirt.libvirtError as err:
            raise LibvirtUnreachableError(
                f"connect to {self._uri}",
                f"{_one_line(err)}; is libvirtd (or virtlxcd) running, "
                "with its LXC driver?",
            ) from err


def _is_of_connection(err: Any) -> bool:
    return bool(err.get_error_domain() == libvirt.VIR_FROM_RPC)


def _wait_inactive(domain: Any, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while domain.isActive() and time.monotonic() < deadline:
        time.sleep(_POLL)


def _is_active(domain: Any) -> bool:
    if domain is not None:
        with _skipping_undefined():
            return bool(domain.isActive())
    return False


@contextmanager
def _skipping_undefined() -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as err:
        if err.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split())
