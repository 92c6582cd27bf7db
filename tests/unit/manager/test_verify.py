# SPDX-License-Identifier: Apache-2.0
"""Verifications: what is destroyed, and what runs on."""

import errno
from dataclasses import replace
from functools import partial

import pytest

from lxc_userns.exceptions import (
    InspectionError,
    InstanceError,
    IsolationError,
    LibvirtError,
    LibvirtUnreachableError,
    NoSuchContainerError,
    NotRunningError,
)
from lxc_userns.instances.verified import Verified
from lxc_userns.linux.bounds import BoundExceededError
from lxc_userns.linux.process import Process
from lxc_userns.verification.observed import Observed
from tests.unit.manager.world import (
    ID_MAP,
    UUID,
    FakeInit,
    World,
    another,
    another_uuid,
    failing,
    run,
)


def test_verify(world: World) -> None:
    prepared = world.manager.prepare(world.request)
    world.guests.add("web1")
    for instance in ("web1", prepared):
        found = world.manager.verify(instance, started=False)
        assert (found.name, found.pid) == ("web1", 4242)
        assert (found.uid_map, found.gid_map) == (str(ID_MAP), str(ID_MAP))
    assert "destroy" not in world.log


def test_what_is_not_as_promised_is_destroyed(world: World) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    world.guests.init.uid_map = ((0, 0, 4294967295),)
    world.guests.init.gid_map = ()
    with pytest.raises(
        IsolationError,
        match=r"uid_map is 0:0:4294967295, promised was 0:100000:65536; its "
        r"gid_map is empty, promised was 0:100000:65536; .*; it was destroyed",
    ):
        world.manager.verify("web1", started=False)
    assert world.log[-1] == "destroy"


UNLOOKED = [
    MemoryError(),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EMFILE, "Too many open files"),
    ZeroDivisionError("a fault of ours"),
    FileNotFoundError(errno.ENOENT, "No such file"),
    InstanceError("web1", "cannot be looked at"),
]


#: What a container could write: a group, and names in it.
WRITABLE = "/sys/fs/cgroup/web1", "memory.max"


def let_it_write(world: World) -> list[tuple[str, str]]:
    """Let the container write to groups; return which, to be changed."""
    assert world.ports.inspector is not None
    observe = world.ports.inspector.observe
    writable = [WRITABLE]

    def observe_more(name: str, init: Process) -> Observed:
        return replace(observe(name, init), writable=tuple(writable))

    world.inspect(observe=observe_more)
    return writable


def fail_at(world: World, place: str, error: Exception) -> None:
    """Let a step of each verification fail."""
    if place == "revoke":  # Else there is nothing to revoke.
        let_it_write(world)
    world.inspect(**{place: failing(error)})


@pytest.mark.parametrize("is_taken", [True, False])
def test_what_it_could_write_is_taken_and_looked_for_again(
    world: World, is_taken: bool
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    writable = let_it_write(world)

    def revoke(_init: Process) -> list[str]:
        if is_taken:
            writable.clear()
        return ["/".join(WRITABLE)]

    world.inspect(revoke=revoke)
    if is_taken:
        world.manager.verify("web1", started=True)
        assert "destroy" not in world.log
        return
    with pytest.raises(IsolationError, match=r"memory\.max"):
        world.manager.verify("web1", started=True)
    assert world.log[-1] == "destroy"


@pytest.mark.parametrize("place", ["observe", "compare", "revoke"])
@pytest.mark.parametrize("error", UNLOOKED, ids=repr)
def test_what_cannot_be_looked_at_later_runs_on(
    world: World,
    place: str,
    error: Exception,
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    fail_at(world, place, error)
    with pytest.raises(InspectionError, match=r"cannot .* at: .* runs on"):
        world.manager.verify("web1", started=False)
    assert "destroy" not in world.log
    assert world.guests.domains["web1"].is_active
    assert world.services.store.load("web1").verified is None  # type: ignore[union-attr]


@pytest.mark.parametrize("place", ["observe", "compare", "revoke"])
@pytest.mark.parametrize("error", UNLOOKED, ids=repr)
def test_what_cannot_be_looked_at_just_after_its_start_is_destroyed(
    world: World,
    place: str,
    error: Exception,
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    fail_at(world, place, error)
    with pytest.raises(IsolationError, match="; it was destroyed"):
        world.manager.verify("web1", started=True)
    assert world.log[-1] == "destroy"


@pytest.mark.parametrize("lost", [[], ["web1"]])
@pytest.mark.parametrize("started", [True, False])
def test_an_end_that_libvirt_has_missed_while_it_is_looked_at(
    world: World,
    started: bool,
    lost: list[str],
) -> None:
    """Whatever is left of it was never verified."""
    world.manager.prepare(world.request)
    world.guests.add("web1")
    world.guests.lost += lost
    world.inspect(observe=failing(NotRunningError("x")))
    with pytest.raises(NotRunningError):
        world.manager.verify("web1", started=started)
    assert (world.log[-1] == "destroy") == started


@pytest.mark.parametrize("started", [True, False])
def test_an_interrupt_while_it_is_looked_at(
    world: World, started: bool
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    fail = failing(KeyboardInterrupt())
    world.inspect(observe=fail)
    with pytest.raises(KeyboardInterrupt):
        world.manager.verify("web1", started=started)
    assert ("destroy" in world.log) == started


def test_a_container_makes_too_much_of_something(world: World) -> None:
    """It cannot keep itself from being judged for ever."""
    world.manager.prepare(world.request)
    world.guests.add("web1")
    error = BoundExceededError("has more than 10 names in /dev")
    world.inspect(observe=failing(error))
    with pytest.raises(IsolationError, match="names in /dev; it was destr"):
        world.manager.verify("web1", started=False)
    assert world.log[-1] == "destroy"


@pytest.mark.parametrize("started", [True, False])
def test_a_report_changes_nothing(world: World, started: bool) -> None:
    report = partial(world.report, started=started)
    world.manager.prepare(world.request)
    with pytest.raises(NotRunningError):
        report()
    world.guests.add("web1")
    for name in ("enforce", "revoke"):
        world.inspect(**{name: failing(AssertionError(name))})
    world.log.clear()
    assert report().was_verified is False
    assert report().was_verified is False
    world.guests.init.uid_map = ()
    with pytest.raises(IsolationError, match="it was left as it is"):
        report()
    world.inspect(observe=failing(OSError("no")))
    with pytest.raises(InspectionError, match="cannot be looked at: no"):
        report()
    assert world.log == []


def test_no_libvirtd_after_a_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said what was to be done and could not be."""
    world.manager.prepare(world.request)
    world.guests.add("web1")
    broken = failing(LibvirtUnreachableError("look up web1", "gone"))
    for name in ("find", "xml", "destroy"):
        monkeypatch.setattr(world.guests, name, broken)
    with pytest.raises(LibvirtUnreachableError) as raised:
        world.manager.verify("web1", started=True)
    assert "web1 is not as promised" in raised.value.__notes__[0]
    with pytest.raises(InspectionError, match="gone; it runs on"):
        world.manager.verify("web1", started=False)


def test_a_mismatch_is_told_even_if_it_cannot_be_destroyed(
    world: World,
) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    world.guests.init.uid_map = ()
    world.guests.fail_at = "destroy"
    with pytest.raises(LibvirtError) as raised:
        world.manager.verify("web1", started=False)
    assert "web1 is not as promised: its uid_map" in raised.value.__notes__[0]


def test_verify_of_what_does_not_run(world: World) -> None:
    with pytest.raises(NoSuchContainerError, match="web1"):
        world.manager.verify("web1", started=False)
    world.manager.prepare(world.request)
    with pytest.raises(NotRunningError, match="web1: is prepared; start its"):
        world.manager.verify("web1", started=False)
    # Somebody else's, of the same name.
    world.guests.add("web1", uuid=UUID.replace("0", "1"))
    world.guests.init.uid_map = ()
    with pytest.raises(NotRunningError, match="web1: is prepared; start its"):
        world.manager.verify("web1", started=False)
    assert "destroy" not in world.log


def test_a_start_in_another_boot(world: World) -> None:
    run(world)
    world.inspect(
        mark=lambda init: replace(Verified.now(init), boot_id="another")
    )
    assert world.containers.show("web1").state == "unverified"


def test_what_was_released_meanwhile_gets_no_record(world: World) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    release = world.services.store.remove
    world.inspect(limit=lambda _init: release("web1"))
    assert world.manager.verify("web1", started=False).was_verified is False
    assert world.services.store.load("web1") is None


def test_what_cannot_be_limited(world: World) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    error = OSError("sh: cannot create /proc/sys/user/x")
    world.inspect(limit=failing(error))
    with pytest.raises(InspectionError, match="cannot create"):
        world.manager.verify("web1", started=False)
    assert "destroy" not in world.log
    with pytest.raises(IsolationError, match=r"cannot create .*destroyed"):
        world.manager.verify("web1", started=True)
    assert world.log[-1] == "destroy"


def test_only_what_is_as_promised_is_limited(world: World) -> None:
    world.manager.prepare(world.request)
    world.guests.add("web1")
    world.manager.verify("web1", started=False)
    assert world.log[-1] == "limit"
    world.log.clear()
    world.guests.init = FakeInit(uid_map=((0, 7, 65536),))
    with pytest.raises(IsolationError):
        world.manager.verify("web1", started=False)
    assert world.log == ["destroy"]
    # In the host's user namespace it would be the host that is limited.
    world.set(uid_maps=[], gid_maps=[])
    world.manager.prepare(another(world, "plain"))
    world.guests.add("plain", uuid=another_uuid("plain"))
    world.log.clear()
    world.manager.verify("plain", started=False)
    assert world.log == []
