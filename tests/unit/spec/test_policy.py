# SPDX-License-Identifier: Apache-2.0
"""Policy: modes, and what is refused."""

import itertools
from dataclasses import replace

import pytest

from lxc_userns.exceptions import NeedsError, PolicyError
from lxc_userns.spec.policy import (
    HOST_CAPABILITIES,
    Decision,
    Policy,
    check_ceiling,
    decide,
    host_reasons,
)
from lxc_userns.spec.requirements import (
    CAPABILITIES,
    DROPPED_PRIVATE,
    Device,
    Requirements,
)
from lxc_userns.spec.volume import Volume

NETWORK = "it shares the host's network namespace"
IPC = "it shares the host's IPC namespace"
UTS = "it shares the host's UTS namespace"
TIME = "CAP_SYS_TIME counts in the host's user namespace only"
WISH = "it asks for mode host"
KEPT = "the volume /srv/a keeps the host's owners"
OFF = "user namespaces are off: neither ID maps are configured nor a pool"
OWNERS = Volume("/srv/a", "/a", "host")
POLICIES: tuple[Policy, Policy] = ("required", "preferred")


@pytest.mark.parametrize(
    ("needs", "volumes", "reasons"),
    [
        (Requirements(host_namespaces=("network",)), (), (NETWORK,)),
        (Requirements(host_namespaces=("ipc",)), (), (IPC,)),
        (Requirements(host_namespaces=("uts",)), (), (UTS,)),
        (Requirements(capabilities=("sys_time",)), (), (TIME,)),
        (Requirements("host"), (), (WISH,)),
        (Requirements(), (OWNERS,), (KEPT,)),
        (
            Requirements(
                "host",
                ("uts", "network", "ipc"),
                ("net_admin", "sys_time"),
                ("/dev/fuse",),
            ),
            (Volume("/srv/b", "/b", "none"), OWNERS),
            (WISH, IPC, NETWORK, UTS, TIME, KEPT),
        ),
    ],
)
def test_what_needs_the_hosts_namespace(
    needs: Requirements, volumes: tuple[Volume, ...], reasons: tuple[str, ...]
) -> None:
    assert tuple(host_reasons(needs, volumes)) == reasons
    assert decide("web1", "preferred", needs, volumes) == Decision(
        "host", reasons
    )
    with pytest.raises(PolicyError) as caught:
        decide("web1", "required", needs, volumes)
    assert caught.value.reasons == reasons
    assert str(caught.value) == (
        "web1: cannot run in a user namespace of its own, and [lxc_userns] "
        f"userns_policy = required asks for one: {'; '.join(reasons)}"
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "needs",
    [
        Requirements(),
        Requirements(devices=("/dev/fuse", "/dev/net/tun")),
        Requirements(capabilities=tuple({*CAPABILITIES} - HOST_CAPABILITIES)),
    ],
)
def test_what_is_private(policy: Policy, needs: Requirements) -> None:
    volumes = [Volume("/a", "/a"), Volume("/b", "/b", "none")]
    decision = decide("web1", policy, needs, volumes)
    assert decision == Decision(
        "private", ("nothing it asks for requires mode host",)
    )


def test_a_disk_that_the_host_uses() -> None:
    disk = Requirements(devices=("/dev/sda", "/dev/sdb"))
    reason = "the device /dev/sda has what the host itself has mounted"
    assert decide("web1", "required", disk).mode == "private"
    with pytest.raises(PolicyError, match=reason):
        decide("web1", "required", disk, in_use=["/dev/sda"])
    assert decide("web1", "preferred", disk, in_use=["/dev/sda"]) == Decision(
        "host", (reason,)
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_request_can_tighten(policy: Policy) -> None:
    wish = Requirements("private", ("network",), ("sys_time",))
    with pytest.raises(PolicyError, match="it asks for one") as caught:
        decide("web1", policy, wish)
    assert caught.value.reasons == (NETWORK, TIME)
    assert decide("web1", policy, Requirements("private")) == Decision(
        "private", ("it asks for that",)
    )
    with pytest.raises(PolicyError) as caught:
        decide("web1", policy, wish, enabled=False)
    assert caught.value.reasons == (OFF, NETWORK, TIME)


@pytest.mark.parametrize("policy", POLICIES)
def test_capabilities_that_are_dropped_can_be_had(policy: Policy) -> None:
    """They count for nothing, and whoever says private wants no more."""
    assert DROPPED_PRIVATE < HOST_CAPABILITIES
    wish = Requirements("private", capabilities=tuple(DROPPED_PRIVATE))
    assert decide("web1", policy, wish) == Decision(
        "private", ("it asks for that",)
    )
    undecided = replace(wish, mode=None)
    assert len([*host_reasons(undecided, ())]) == len(DROPPED_PRIVATE)
    loosened = replace(wish, capabilities=("mknod", "sys_rawio"))
    with pytest.raises(PolicyError) as caught:
        decide("web1", policy, loosened)
    assert len(caught.value.reasons) == 1


def test_a_request_cannot_loosen() -> None:
    for wish, shared, enabled in itertools.product(
        ("host", "private", None), ((), ("ipc",)), (True, False)
    ):
        needs = Requirements(wish, shared)  # type: ignore[arg-type]
        try:
            decision = decide("web1", "required", needs, enabled=enabled)
        except PolicyError:
            continue
        # What is off is off for all, but never by a request.
        assert decision.mode == "private" or not (enabled or shared)
        assert wish != "host"


def test_user_namespaces_that_are_off() -> None:
    for policy in POLICIES:
        decision = decide("web1", policy, Requirements(), enabled=False)
        assert decision == Decision("host", (OFF,))
    shared = Requirements(host_namespaces=("network",))
    # No one gets in by asking for more.
    with pytest.raises(PolicyError, match=NETWORK):
        decide("web1", "required", shared, enabled=False)
    decision = decide("web1", "preferred", shared, enabled=False)
    assert decision == Decision("host", (OFF, NETWORK))
    with pytest.raises(PolicyError, match=WISH):
        decide("web1", "required", Requirements("host"), enabled=False)
    decision = decide("web1", "preferred", Requirements("host"), enabled=False)
    assert decision == Decision("host", (OFF, WISH))


def test_a_ceiling_that_was_lowered() -> None:
    shared = Requirements(host_namespaces=("network",))
    check_ceiling("web1", "preferred", shared)
    with pytest.raises(PolicyError, match=NETWORK):
        check_ceiling("web1", "required", shared)
    # What was made while all was off stays as it is until that changes.
    check_ceiling("web1", "required", Requirements(), enabled=False)
    check_ceiling("web1", "preferred", Requirements())
    with pytest.raises(PolicyError, match="made while user namespaces were"):
        check_ceiling("web1", "required", Requirements())


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("mode", "none", "mode 'none': is not one of private, host"),
        ("mode", "", "is not one of private, host"),
        ("host_namespaces", ("pid",), "is not one of network, ipc, uts"),
        ("host_namespaces", "network", "a sequence is expected"),
        ("capabilities", ("SYS_TIME",), "is not one of audit_control, "),
        ("capabilities", ("all",), "is not one of audit_control, "),
        ("capabilities", "kill", "a sequence is expected"),
        ("devices", "/dev/fuse", "a sequence is expected"),
        ("devices", ("/etc/passwd",), "is not a path below /dev"),
        ("devices", ("/dev",), "is not a path below /dev"),
        ("devices", ("/dev/",), "is not a path below /dev"),
        ("devices", ("/dev/../etc/x",), "is not a path below /dev"),
        ("devices", ("/dev/./x",), "is not a path below /dev"),
        ("devices", ("/dev//x",), "is not a path below /dev"),
        ("devices", ("dev/x",), "is not a path below /dev"),
        ("devices", ("/dev/x\n",), "is not a path below /dev"),
        ("devices", ("/dev/<x>",), "is not a path below /dev"),
        ("devices", ("/dev/null",), "every container has one of its own"),
        ("devices", ("/dev/pts/0",), "every container has one of its own"),
        ("devices", ("/dev/tty1",), "every container has one of its own"),
        ("devices", (1,), "texts are expected"),
        ("devices", ([],), "texts are expected"),
        ("host_namespaces", None, "a sequence is expected"),
    ],
)
def test_needs_that_there_are_not(
    field: str, value: object, reason: str
) -> None:
    with pytest.raises(NeedsError) as caught:
        Requirements(**{field: value})  # type: ignore[arg-type]
    assert reason in str(caught.value)


def test_needs_and_their_plain_values() -> None:
    needs = Requirements(
        "host", ("ipc", "ipc"), ("kill",), ("/dev/a", "/dev/a")
    )
    assert needs.host_namespaces == ("ipc",)
    assert needs.devices == ("/dev/a",)
    both = ("kill", "chown")
    assert Requirements(capabilities=both) == Requirements(
        capabilities=both[::-1]
    )
    assert Requirements.from_dict(needs.to_dict()) == needs
    assert needs.to_dict() == {
        "mode": "host",
        "shared": ["ipc"],
        "capabilities": ["kill"],
        "devices": ["/dev/a"],
    }
    with pytest.raises(NeedsError, match="are not capabilities, dev"):
        Requirements.from_dict({"mode": None})


def test_devices_that_are_none() -> None:
    with pytest.raises(NeedsError, match="neither char nor block"):
        Device("/dev/x", "fifo")  # type: ignore[arg-type]
    with pytest.raises(NeedsError, match="not a path below /dev"):
        Device("/x", "char")


def test_capabilities_that_count_on_the_host_only_are_known() -> None:
    assert {*CAPABILITIES} > HOST_CAPABILITIES
