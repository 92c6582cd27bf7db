# SPDX-License-Identifier: Apache-2.0
"""Single parts of an instance, put into the domain of others."""

from __future__ import annotations

import pytest

from lxc_userns.domain import (
    apply,
    read_id_maps,
)
from lxc_userns.domain.document import parse_domain
from lxc_userns.domain.filesystem import source_of, target_of
from lxc_userns.spec.requirements import Device
from tests.unit.domain.changes import (
    BARE,
    CONSOLE,
    ENTRY,
    SHARED,
    VOLUMES,
    bare,
    filesystem,
)
from tests.unit.domain.samples import (
    MAPS,
    PUNCHED_MAPS,
    UUID,
    VIEWS,
    promise,
)


@pytest.mark.parametrize(
    ("new", "changes"),
    [
        (filesystem("file", "/srv/bare", "/"), {}),
        (filesystem("block", "/srv//bare/", "/"), {}),
        (filesystem("mount", "/srv/bare", "/"), {}),
        (filesystem("mount", f"{VIEWS}/volume0", "/data"), {}),
        (filesystem("mount", "/srv/read", "/read", "<readonly/>"), {}),
        (filesystem("mount", f"{VIEWS}/volume1", "/read", "<readonly/>"), {}),
        (filesystem("ram", "9", "/data/deep"), {}),
        (filesystem("bind", "/data", "/x"), {}),
        ("<emulator>/usr/lib/libvirt/libvirt_lxc</emulator>", {}),
    ],
)
def test_filesystems_in_their_order(
    new: str, changes: dict[str, object]
) -> None:
    wanted = promise("bare", filesystems=VOLUMES, **changes)
    edited = apply(bare(CONSOLE, new), wanted)
    domain = parse_domain(edited)
    found = {
        target_of(each): each for each in domain.iterfind("devices/filesystem")
    }
    for each in VOLUMES:
        assert found[each.target].get("type") == "mount"
        assert source_of(found[each.target]) == each.source
        assert found[each.target].find("readonly") is None
    order = [*found]
    if "/data/deep" in order:
        assert order.index("/data") < order.index("/data/deep")


def test_entries_in_another_order_are_put_in_order() -> None:
    wanted = promise("bare", id_maps=PUNCHED_MAPS)
    entries = "".join(
        f"<uid start='{each.guest}' target='{each.host}' "
        f"count='{each.count}'/>"
        for each in PUNCHED_MAPS.uid
    )
    text = bare("<os>", f"<idmap>{entries}<gid {ENTRY}/></idmap><os>")
    found = read_id_maps(apply(text, wanted))
    assert found is not None
    assert [each.guest for each in found.uid] == [0, 1000]


def test_uuid_in_any_form() -> None:
    text = bare("<os>", f"<uuid> {UUID.replace('-', '').upper()} </uuid><os>")
    assert apply(text, BARE).count("<uuid>") == 1


def test_label_without_a_model_is_given_one() -> None:
    text = bare("<seclabel type='none'/>", "<seclabel type='dynamic'/>")
    edited = apply(text, promise("bare", security_model="selinux"))
    label = '<seclabel type="dynamic" model="selinux" relabel="yes"/>'
    assert edited.count("<seclabel") == edited.count(label) == 1


def test_label_that_was_not_promised_is_left() -> None:
    assert "<seclabel type='none'/>" in apply(bare(), BARE)


def test_namespaces_of_the_host_that_are_there() -> None:
    wanted = promise(
        "bare", id_maps=None, host_namespaces=("ipc", "network", "uts")
    )
    text = bare("<os>", f"{SHARED.format('ipc', '1')}<os>")
    edited = apply(text, wanted)
    assert edited.count("shareipc") == edited.count("shareuts") == 1
    assert edited.count("lxc:namespace") == 2


@pytest.mark.parametrize("present", ["", "<fibrechannel appid='a'/>"])
def test_partition(present: str) -> None:
    wanted = promise("bare", partition="/machine/x")
    text = bare("<os>", f"<resource>{present}</resource><os>")
    edited = apply(text, wanted)
    assert "<partition>/machine/x</partition>" in edited
    assert present in edited


def test_maps_are_those_of_the_promise() -> None:
    assert read_id_maps(apply(bare(), BARE)) == MAPS


def test_a_device_where_there_are_none() -> None:
    wanted = promise("web", devices=(Device("/dev/fuse", "char"),))
    text = (
        "<domain type='lxc'><name>web</name><memory>65536</memory>"
        "<os><type>exe</type></os></domain>"
    )
    edited = apply(text, wanted)
    assert "<char>/dev/fuse</char>" in edited
    assert apply(edited, wanted) == edited


def test_mode_host_without_capabilities_adds_none() -> None:
    wanted = promise("bare", id_maps=None, dropped_capabilities=())
    assert "<capabilities" not in apply(bare(), wanted)


def test_label_of_another_module_is_left() -> None:
    label = "<seclabel type='none' model='dac'/>"
    text = bare("<seclabel type='none'/>", label)
    edited = apply(text, promise("bare", security_model="apparmor"))
    assert label in edited
    assert 'model="apparmor"' in edited
