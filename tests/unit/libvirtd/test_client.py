# SPDX-License-Identifier: Apache-2.0
"""libvirt's errors end in guest.py, and a lost connection is made anew."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any

import libvirt
import pytest

from lxc_userns.exceptions import (
    InstanceError,
    LibvirtError,
    LibvirtUnreachableError,
    LxcUsernsError,
    NoSuchContainerError,
    NotRunningError,
)
from lxc_userns.libvirtd.client import Guests
from lxc_userns.libvirtd.guest import Guest


def failure(code: int, text: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError(text)
    error.err = (code, 0, text, 2, None, None, None, 0, 0)
    return error


NO_DOMAIN = failure(libvirt.VIR_ERR_NO_DOMAIN, "Domain not found")
ENDED = failure(libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running")
BROKEN = failure(libvirt.VIR_ERR_INTERNAL_ERROR, "two\n  lines")


#: More than any process ID is (PID_MAX_LIMIT): there is none.
NONE = 1 << 22


class FakeDomain:
    def __init__(self, *, active: bool = True) -> None:
        self.active = active
        self.controller = NONE
        self.error: Exception | None = None

    def _end(self) -> None:
        if self.error:
            raise self.error
        self.active = False

    def create(self) -> None:
        if self.error:
            raise self.error
        self.active = True

    destroy = undefine = _end

    def isActive(self) -> bool:  # noqa: N802 - libvirt's name
        return self.active

    def state(self) -> list[int]:
        if self.error:
            raise self.error
        running, off = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_SHUTOFF
        return [running if self.active else off, 0]

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        return self.controller if self.active else -1

    def name(self) -> str:
        return "web1"

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return "uuid"


class FakeConnection:
    def __init__(self) -> None:
        self.alive = True
        self.is_answered = True
        self.domains: dict[str, FakeDomain] = {}
        self.error: Exception | None = None
        self.is_alive_after_error = True

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        return self.alive

    def listAllDomains(self) -> list[FakeDomain]:  # noqa: N802
        if self.error:
            self.alive = self.is_alive_after_error
            raise self.error
        return list(self.domains.values())

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's name
        if not self.is_answered:
            raise BROKEN
        return 9001012


class FakeLibvirtd:
    """A libvirtd, and the connection that it gives next."""

    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection

    def connect(self, uri: str) -> FakeConnection:
        assert uri == "lxc:///"
        return self.connection


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def libvirtd(connection: FakeConnection) -> FakeLibvirtd:
    return FakeLibvirtd(connection)


@pytest.fixture
def guests(libvirtd: FakeLibvirtd) -> Guests:
    return Guests(connect=libvirtd.connect)


@pytest.fixture
def hasty(libvirtd: FakeLibvirtd) -> Guests:
    """Domains of a libvirtd for which no one waits."""
    return Guests(connect=libvirtd.connect, timeout=0)


def test_no_libvirtd() -> None:
    def fail(_uri: str) -> Any:
        raise BROKEN

    with pytest.raises(
        LibvirtError,
        match=r"libvirt: connect to lxc:///: two lines; is libvirtd \(or ",
    ):
        Guests(connect=fail).list()


def error_of_a_connection() -> libvirt.libvirtError:
    error = libvirt.libvirtError("Failed to connect socket")
    error.err = (38, libvirt.VIR_FROM_RPC, "Failed to connect socket")
    return error


@pytest.mark.parametrize(
    ("error", "is_alive", "kind"),
    [
        (error_of_a_connection(), True, NotRunningError),
        (error_of_a_connection(), False, LibvirtUnreachableError),
        (BROKEN, True, LibvirtError),
    ],
)
def test_a_start_fails(
    connection: FakeConnection,
    guests: Guests,
    error: libvirt.libvirtError,
    is_alive: bool,
    kind: type[Exception],
) -> None:
    """The connection of a container which ends at once is not ours."""
    domain = connection.domains["web1"] = FakeDomain(active=False)

    def fail() -> None:
        connection.alive = is_alive
        raise error

    domain.create = fail  # type: ignore[method-assign]
    with pytest.raises(LxcUsernsError) as caught:
        guests.start("web1")
    assert type(caught.value) is kind


@pytest.mark.parametrize("is_alive", [True, False])
def test_an_error_of_some_connection(
    connection: FakeConnection, guests: Guests, is_alive: bool
) -> None:
    """libvirtd has one to each container as well, which ends with that."""
    guests.version()
    connection.error = error_of_a_connection()
    connection.is_alive_after_error = is_alive
    with pytest.raises(LibvirtError) as caught:
        guests.list()
    kind = LibvirtError if is_alive else LibvirtUnreachableError
    assert type(caught.value) is kind


def test_version(guests: Guests) -> None:
    assert guests.version() == "9.1.12"


def test_a_dead_connection_is_replaced(
    connection: FakeConnection, libvirtd: FakeLibvirtd, guests: Guests
) -> None:
    guests.version()
    fresh = FakeConnection()
    fresh.domains["web1"] = FakeDomain()
    libvirtd.connection = fresh
    assert guests.find("web1") is None
    connection.alive = False
    assert guests.find("web1") is not None


def test_a_libvirtd_that_was_restarted_in_between(
    connection: FakeConnection, libvirtd: FakeLibvirtd, guests: Guests
) -> None:
    """Until it is used, the connection to the old one is called alive."""
    guests.version()
    connection.is_answered = False
    fresh = FakeConnection()
    fresh.domains["web1"] = FakeDomain()
    libvirtd.connection = fresh
    assert connection.isAlive()
    assert guests.find("web1") is not None


def test_threads_share_one_connection() -> None:
    made: list[FakeConnection] = []
    together = Barrier(8)

    def slow_open(_uri: str) -> FakeConnection:
        time.sleep(0.01)  # Long enough for another thread to get here.
        made.append(FakeConnection())
        return made[-1]

    def look(guests: Guests) -> list[Guest]:
        together.wait()
        return guests.list()

    guests = Guests(connect=slow_open)
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(look, [guests] * 8)] == [[]] * 8
    assert len(made) == 1


def test_what_is_not_there(guests: Guests) -> None:
    assert guests.find("web1") is None
    guests.undefine("web1")
    guests.destroy("web1")
    for operation in (guests.start, guests.stop):
        with pytest.raises(NoSuchContainerError, match="web1"):
            operation("web1")
    with (
        pytest.raises(InstanceError, match="web1: is not running"),
        guests.init_process("web1"),
    ):
        pytest.fail("must not get here")


def test_other_errors_are_told_in_one_line(
    connection: FakeConnection, guests: Guests
) -> None:
    connection.error = BROKEN
    for operation, name in (
        (guests.find, "look up"),
        (guests.start, "start"),
        (guests.stop, "stop"),
        (guests.destroy, "destroy"),
        (guests.undefine, "undefine"),
    ):
        with pytest.raises(
            LibvirtError, match=f"^libvirt: {name} web1: two lines$"
        ):
            operation("web1")


@pytest.mark.parametrize("error", [ENDED, BROKEN, NO_DOMAIN])
@pytest.mark.parametrize("operation", ["destroy", "stop", "undefine"])
@pytest.mark.parametrize("looks", [0, 3])
def test_what_it_comes_to_counts(
    connection: FakeConnection,
    libvirtd: FakeLibvirtd,
    error: Exception,
    operation: str,
    looks: int,
) -> None:
    """systemd may remove a control group before libvirt kills in it."""
    connection.domains["web1"] = domain = FakeDomain()
    paused = []

    def end() -> None:
        domain.active = False
        if operation == "undefine":
            connection.domains.clear()

    def pause(_seconds: float) -> None:
        paused.append(_seconds)
        if len(paused) == looks:
            end()

    def fail() -> None:
        if looks == 0:
            end()
        raise error

    guests = Guests(connect=libvirtd.connect, sleep=pause)
    domain.destroy = domain.undefine = fail  # type: ignore[method-assign]
    options = {"timeout": 0} if operation == "stop" else {}
    getattr(guests, operation)("web1", **options)
    assert len(paused) == looks


@pytest.mark.parametrize("operation", ["destroy", "undefine"])
def test_what_did_not_come_about(
    connection: FakeConnection, hasty: Guests, operation: str
) -> None:
    connection.domains["web1"] = domain = FakeDomain()
    domain.error = ENDED
    with pytest.raises(LibvirtError, match=f"{operation} web1: domain is not"):
        getattr(hasty, operation)("web1")
    assert domain.active


@pytest.mark.parametrize("uuid", ["uuid", "another"])
@pytest.mark.parametrize("is_there", [False, True])
def test_an_end_that_libvirt_has_missed(
    connection: FakeConnection, hasty: Guests, is_there: bool, uuid: str
) -> None:
    connection.domains["web1"] = domain = FakeDomain()
    domain.controller = os.getpid() if is_there else NONE
    hasty.end_lost("web1", uuid)
    assert domain.active == (is_there or uuid == "another")


def test_a_stop_does_not_wait_for_an_end_that_libvirt_has_missed(
    connection: FakeConnection, libvirtd: FakeLibvirtd
) -> None:
    """However long it had, which has ended already."""
    connection.domains["web1"] = domain = FakeDomain()
    waited = []

    class Ended:
        program = "systemd"

        def send_signal(self, number: int) -> None:
            raise ProcessLookupError(number)

        def wait(self, timeout: float) -> None:
            waited.append(timeout)

    class Stopped(Guests):
        @contextmanager
        def init_process(self, name: str) -> Iterator[Any]:
            yield Ended()

    # It would take an hour if it waited for libvirt as long.
    guests = Stopped(connect=libvirtd.connect, timeout=0.1)
    guests.stop("web1", 3600)
    assert not domain.active
    assert waited == [pytest.approx(3600, abs=600)]


@pytest.mark.parametrize(
    ("is_there", "reason"),
    [(True, "its first process is not found"), (False, "is not running")],
)
def test_no_first_process(
    connection: FakeConnection, hasty: Guests, is_there: bool, reason: str
) -> None:
    """libvirt's own process for it may outlive it by seconds."""
    connection.domains["web1"] = domain = FakeDomain()
    domain.controller = os.getpid() if is_there else NONE
    with pytest.raises(NotRunningError) as caught, hasty.init_process("web1"):
        pass
    assert caught.value.reason == reason


def test_a_reboot_is_no_end_that_libvirt_has_missed(
    connection: FakeConnection, guests: Guests
) -> None:
    """There is no process for a moment, until the next one."""
    controllers = [NONE, NONE, os.getpid()]

    class Rebooting(FakeDomain):
        def ID(self) -> int:  # noqa: N802 - libvirt's name
            return controllers.pop(0)

    connection.domains["web1"] = domain = Rebooting()
    guests.end_lost("web1", "uuid")
    assert (domain.active, controllers) == (True, [])


def test_what_is_undefined_meanwhile_is_not_found(
    connection: FakeConnection, guests: Guests
) -> None:
    connection.domains["web1"] = domain = FakeDomain()
    domain.error = NO_DOMAIN
    assert guests.find("web1") is None
    assert guests.find("web2") is None


def test_what_is_undefined_meanwhile_is_not_listed(
    connection: FakeConnection, guests: Guests
) -> None:
    connection.domains = {"web1": FakeDomain(), "web2": FakeDomain()}
    connection.domains["web1"].error = NO_DOMAIN
    (guest,) = guests.list()
    assert guest.is_active


@pytest.mark.parametrize(
    ("active", "state", "controller"),
    [(True, "running", NONE), (False, "stopped", None)],
)
def test_find(
    connection: FakeConnection,
    guests: Guests,
    active: bool,
    state: str,
    controller: int | None,
) -> None:
    connection.domains["web1"] = FakeDomain(active=active)
    guest = guests.find("web1")
    assert guest is not None
    assert (guest.name, guest.uuid) == ("web1", "uuid")
    assert (guest.state, guest.controller) == (state, controller)
    assert guest.is_active == active
