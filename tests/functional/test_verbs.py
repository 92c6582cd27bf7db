# SPDX-License-Identifier: Apache-2.0
"""Each verb of the manager in each state, as the documentation has it."""

import csv
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lxc_userns import PreparedInstance, Requirements, exceptions, rootfs
from tests.functional import images, instance_host
from tests.functional.instance_host import NAME, UUID, InstanceHost
from tests.samples import TOP

pytestmark = pytest.mark.needs("private-libvirtd", "containers")

with (TOP / "doc/source/reference/verbs.csv").open() as _stream:
    TABLE = {row.pop("verb"): row for row in csv.DictReader(_stream)}
STATES = [*next(iter(TABLE.values()))]
#: How an instance is asked for; the first is tried in more ways.
KINDS: dict[str, dict[str, Any]] = {
    "leased": {},
    "chown": {"strategy": "chown"},
    "overlay": {"strategy": "overlay"},
    "shared maps": {},
    "mode host": {"needs": Requirements("host")},
}
#: Those of them that have no lease, and so are never allocated alone.
WITHOUT_LEASE = ("shared maps", "mode host")


@pytest.fixture
def host(
    libvirt_connection: libvirt.virConnect, reachable_path: Path
) -> Iterator[InstanceHost]:
    """A host whose instance can run."""
    with instance_host.made(reachable_path, libvirt_connection) as found:
        images.make_busybox(found.rootfs)
        yield found


def reach(host: InstanceHost, state: str, defined: bool) -> None:
    """Bring the instance from any state to another."""
    if host.state() == state == "running":
        return
    host.undefine()
    manager = host.manager
    manager.release(NAME)
    if host.rootfs.stat().st_uid != 0:
        # The only range of the pool is not free while it is on disk.
        rootfs.unshift(host.rootfs)
    if state == "unknown":
        return
    prepared = manager.allocate(host.request())
    if state != "allocated":
        prepared = manager.prepare(host.request())
    if state == "running":
        host.define(prepared)
        host.start()
        manager.verify(prepared, started=True)
    if state == "stopped":
        _have_run(host, prepared)
    if state == "unmounted":
        manager.unmount(prepared)
    _define(host, prepared, defined)


def _have_run(host: InstanceHost, prepared: PreparedInstance) -> None:
    """Start the instance and stop it; from the second time on, as if."""
    store = host.services.store
    if host.verified is not None:
        store.save(replace(prepared.record, verified=host.verified))
        return
    host.define(prepared)
    host.start()
    host.manager.verify(prepared, started=True)
    host.stop()
    record = store.load(NAME)
    assert record is not None
    host.verified = record.verified


def _define(
    host: InstanceHost, prepared: PreparedInstance, defined: bool
) -> None:
    if host.state() == "running":
        return
    host.undefine()
    if defined:
        host.define(prepared)


def call(host: InstanceHost, verb: str) -> None:
    """Call a verb, by the name that the table has for it."""
    manager = host.manager
    calls: dict[str, Callable[[], object]] = {
        "allocate": lambda: manager.allocate(host.request()),
        "prepare by a request": lambda: manager.prepare(host.request()),
        "prepare by another request": lambda: manager.prepare(
            host.request(volumes=())
        ),
        "prepare by name": lambda: manager.prepare(NAME),
        "verify, started": lambda: manager.verify(NAME, started=True),
        "verify, not started": lambda: manager.verify(NAME, started=False),
        "unmount": lambda: manager.unmount(NAME),
        "release": lambda: manager.release(NAME),
        "sync": lambda: manager.sync(NAME),
    }
    calls[verb]()


def check(
    host: InstanceHost, verb: str, state: str, *, is_leased: bool = True
) -> str:
    """Call a verb in a state, and compare it with the table.

    :returns: the state that it leads to.
    """
    wanted = TABLE[verb][state]
    if wanted == "allocated" and not is_leased:
        wanted = "unknown"
    if wanted in STATES:
        call(host, verb)
        assert host.state() == wanted, (verb, state)
        return wanted
    before = host.everything()
    with pytest.raises(getattr(exceptions, wanted)) as caught:
        call(host, verb)
    text = str(caught.value)
    assert re.match(rf"{NAME}: is {state}; .*call [a-z]+", text), text
    assert host.everything() == before
    assert host.state() == state
    return state


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (kind, state)
        for kind in KINDS
        for state in STATES
        if state != "allocated" or kind not in WITHOUT_LEASE
    ],
)
def test_each_verb_in_each_state_twice(
    host: InstanceHost, kind: str, state: str
) -> None:
    host.asked = KINDS[kind]
    if kind == "mode host":
        host.conf.set_override("userns_policy", "preferred", "lxc_userns")
    if kind == "shared maps":
        host.share_id_maps()
    is_leased = kind not in WITHOUT_LEASE
    is_first = kind == "leased" and state not in ("running", "stopped")
    for defined in (False, True) if is_first else (True,):
        for verb in TABLE:
            reach(host, state, defined)
            after = check(host, verb, state, is_leased=is_leased)
            there = host.everything()
            assert check(host, verb, after, is_leased=is_leased) == after
            assert host.everything() == there
            if state != after:
                host.undefine()


OTHER_UUID = UUID.replace("0", "1")
#: What is refused where an instance has files, a lease or ID maps already:
#: what was asked for first, what is asked for then, and the error.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception]]] = {
    "another UUID": ({}, {"uuid": OTHER_UUID}, exceptions.InstanceError),
    "another size": ({}, {"range_size": 1000}, exceptions.LeaseError),
    "mode host": (
        {},
        {"needs": Requirements("host")},
        exceptions.InstanceError,
    ),
    "another strategy": (
        {"strategy": "overlay"},
        {"strategy": "idmapped"},
        exceptions.InstanceError,
    ),
}


@pytest.mark.parametrize(
    ("verb", "kind", "state"),
    [
        (verb, kind, state)
        for verb in ("allocate", "prepare")
        for kind in REFUSED
        for state in STATES[1:]
        # It has no files yet, or asks for none.
        if kind != "another strategy"
        or (verb == "prepare" and state != "allocated")
    ],
)
def test_what_is_refused_in_every_state(
    host: InstanceHost, verb: str, kind: str, state: str
) -> None:
    """The error names instance, state and verb, and nothing is changed."""
    host.asked, other, error = REFUSED[kind]
    host.conf.set_override("userns_policy", "preferred", "lxc_userns")
    reach(host, state, defined=True)
    before = host.everything()
    with pytest.raises(error) as caught:
        getattr(host.manager, verb)(host.request(**other))
    text = str(caught.value)
    assert re.match(rf"{NAME}: is {state}\b.*[;,] .*call [a-z]+", text), text
    assert host.everything() == before
    assert host.state() == state


def test_verbs_at_once(host: InstanceHost) -> None:
    """One after the other has the instance."""
    request = host.request()
    host.manager.prepare(request)
    host.manager.release(NAME)
    nothing = host.everything()
    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(host.manager.prepare, [request] * 8)]
        assert all(each.parts == found[0].parts for each in found)
        once = host.everything()
        assert host.state() == "prepared"
        for verb in (host.manager.unmount, host.manager.release) * 2:
            undone = threads.submit(verb, NAME)
            prepared = threads.submit(host.manager.prepare, request)
            by_name = threads.submit(host.manager.prepare, NAME)
            undone.result()
            prepared.result()
            try:
                by_name.result()
            except exceptions.NoSuchContainerError as err:
                assert "call prepare" in str(err)  # noqa: PT017
    host.manager.prepare(request)
    assert host.everything() == once
    host.manager.release(NAME)
    assert host.everything() == nothing


def by_processes(verb: Callable[[], object]) -> None:
    """Call a verb by four processes at once, for all of which it goes well."""
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                verb()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert {os.waitpid(each, 0)[1] for each in children} == {0}


def test_verbs_of_several_processes_at_once(host: InstanceHost) -> None:
    """Each makes a manager of its own."""
    request = host.request()
    host.manager.prepare(request)
    once = host.everything()
    host.manager.release(NAME)
    nothing = host.everything()
    for _ in range(3):
        by_processes(lambda: host.manager.prepare(request))
        assert host.everything() == once
        by_processes(lambda: host.manager.release(NAME))
        assert host.everything() == nothing


def test_a_view_that_is_synced_can_be_unmounted(host: InstanceHost) -> None:
    """A snapshot is being made, and the instance is stopped meanwhile."""
    manager = host.manager
    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            manager.prepare(host.request())
            syncs = [threads.submit(manager.sync, NAME) for _ in range(6)]
            manager.unmount(NAME)
            for each in syncs:
                each.result()


def test_who_looks_keeps_no_one_from_unmounting(host: InstanceHost) -> None:
    """A look, as by who prepares another instance with the same files."""
    files, ends = host.services.files, threading.Event()

    def look() -> None:
        while not ends.is_set():
            files.is_mounted(NAME)

    with ThreadPoolExecutor(2) as threads:
        looks = [threads.submit(look) for _ in range(2)]
        try:
            for _ in range(20):
                host.manager.prepare(host.request())
                host.manager.unmount(NAME)
        finally:
            ends.set()
        for each in looks:
            each.result()


def test_by_another_run_path(host: InstanceHost) -> None:
    """Another program, or a service since its configuration was changed."""
    manager, run = host.manager, str(host.path / "run")
    manager.prepare(host.request())
    before = host.everything()
    host.conf.set_override("run_path", f"{run}-of-others", "lxc_userns")
    calls: tuple[Callable[[], object], ...] = (
        lambda: manager.prepare(host.request()),
        lambda: manager.prepare(NAME),
        lambda: manager.sync(NAME),
        lambda: manager.unmount(NAME),
        lambda: manager.release(NAME),
    )
    for each in calls:
        with pytest.raises(exceptions.ConfigError) as caught:
            each()
        assert f"views of {NAME} are below {run}; set it to" in str(
            caught.value
        )
        assert host.everything() == before
    host.conf.set_override("run_path", run, "lxc_userns")
    manager.unmount(NAME)
    host.conf.set_override("run_path", f"{run}-of-others", "lxc_userns")
    # Its domain has the place of before.
    with pytest.raises(exceptions.ConfigError, match="are below"):
        manager.prepare(NAME)
    # Who prepares it by a request writes its domain anew.
    prepared = manager.prepare(host.request())
    assert prepared.root == f"{run}-of-others/{NAME}/root"
    manager.release(NAME)


def test_the_table_has_every_verb_and_state() -> None:
    page = (TOP / "doc/source/reference/verbs.rst").read_text()
    assert [
        line
        for line, below in zip(
            page.splitlines(), page.splitlines()[1:], strict=False
        )
        if below.startswith("    ") and re.fullmatch("[a-z]+", line)
    ] == STATES
    reference = (TOP / "doc/source/reference/api.rst").read_text()
    (verbs,) = re.findall(
        r"UserNamespaceManager\n   :members: (.*)", reference
    )
    named = {re.split("[ ,]", each)[0] for each in TABLE}
    assert named == {*verbs.split(", ")}
