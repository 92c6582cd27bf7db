# SPDX-License-Identifier: Apache-2.0
"""Values that cross to the process that is root, and back."""

import socket
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_privsep import comm

from lxc_userns.exceptions import ArgumentError, LxcUsernsError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.instances.verified import Verified
from lxc_userns.linux.file_identity import FileIdentity
from lxc_userns.privileged import daemon, wire
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import Device, Requirements
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from lxc_userns.verification import VerifiedInstance
from tests.unit.id_map_strategies import id_maps
from tests.unit.instances.strategies import (
    needs,
    numbers,
    paths,
    texts,
    volumes,
)

UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
MAPS = IdMaps(
    IdMap.parse("0:100000:10,10:200000:65526"), IdMap.parse("0:300000:65536")
)
VOLUME = Volume(
    "/srv/\N{GREEK SMALL LETTER ALPHA}",
    "/data",
    owners="host",
    readonly=True,
    nosuid=False,
    nodev=False,
    owned=True,
)
NEEDS = Requirements(
    mode="host",
    host_namespaces=("network", "ipc"),
    capabilities=("sys_time", "net_admin"),
    devices=("/dev/fuse",),
)
RECORD = InstanceRecord(
    name="web1",
    uuid=UUID,
    rootfs="/srv/web1",
    id_maps=MAPS,
    strategy=Strategy.IDMAPPED,
    view="/run/x/web1/root",
    ready=2**64 - 1,
    reason="it is there",
    archive="/srv/web1.tar",
    volumes=(VOLUME, Volume.parse("/a:/b:image")),
    needs=NEEDS,
    devices=(Device("/dev/fuse", "char"),),
    mode_reasons=("one", "two"),
    identities={
        "/srv/web1": FileIdentity("boot", 2**63, 5, "1:ab", lasting=True)
    },
    empty={"/srv/web1": ((64769, 2, 1_700_000_000_000_000_000), (1, 2, 3))},
    verified=Verified(1_700_000_000, "boot", 4321, 99),
    rootfs_kind="archive",
    max_processes=7,
    dropped=("sys_resource",),
    security_model="apparmor",
    hostname="web1.example",
    named=True,
)
#: Of each that crosses some, with each field other than by default.
SAMPLES: tuple[Any, ...] = (
    InstanceRequest("web1", UUID, "/srv/web1", id_maps=MAPS),
    InstanceRequest(
        "web1",
        UUID,
        "/srv/web1",
        strategy="chown",
        volumes=(VOLUME,),
        program="/sbin/init",
        range_size=131072,
        needs=Requirements(devices=("/dev/fuse",)),
        rootfs_kind="image",
        max_processes=7,
        security_model="selinux",
        grow=True,
        hostname="web1.example",
    ),
    PreparedInstance(RECORD),
    VerifiedInstance("web1", "private", 4321, "0:1:2", "0:3:4", True),
)


def across(value: Any) -> Any:
    """The same after the journey that oslo.privsep sends it on."""
    here, there = socket.socketpair()
    with here, there:
        comm.Serializer(here).send(value)
        return next(comm.Deserializer(there))


def returned(value: Any) -> Any:
    data = across(wire.encode(value))
    return wire.decode("verb", "value", type(value), data)


def parts(value: Any) -> Iterator[Any]:
    """All dataclasses in a value, itself among them."""
    if is_dataclass(value):
        yield value
        for each in fields(value):
            yield from parts(getattr(value, each.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from parts(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from parts(item)


def classes(kind: Any) -> Iterator[type]:
    """All dataclasses in an annotation."""
    for option in get_args(kind):
        yield from classes(option)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        yield kind
        for annotation in wire._annotations(kind).values():
            yield from classes(annotation)


PARTS: dict[type, list[Any]] = {}
for sample in SAMPLES:
    for found in parts(sample):
        PARTS.setdefault(type(found), []).append(found)
CROSSING = {
    kind
    for verb in daemon.VERBS.values()
    for annotation in wire._annotations(verb).values()
    for kind in classes(annotation)
}


def test_every_class_that_crosses_is_tried() -> None:
    assert {*PARTS} == CROSSING


@pytest.mark.parametrize("kind", PARTS, ids=lambda it: it.__name__)
def test_no_field_is_lost(kind: Any) -> None:
    """A field that is added is one of these, or this fails."""
    for each in fields(kind):
        default = each.default
        if each.default_factory is not MISSING:
            default = each.default_factory()
        values = [getattr(part, each.name) for part in PARTS[kind]]
        assert any(value != default for value in values), each.name
    for part in PARTS[kind]:
        back = returned(part)
        assert back == part
        assert repr(back) == repr(part)
        for each in fields(kind):
            was, found = getattr(part, each.name), getattr(back, each.name)
            assert type(found) is type(was), each.name


@pytest.mark.parametrize("kind", PARTS, ids=lambda it: it.__name__)
def test_a_field_too_few_or_too_many(kind: type) -> None:
    data = wire.encode(PARTS[kind][0])
    for name in data:
        rest = {key: each for key, each in data.items() if key != name}
        with pytest.raises(ArgumentError, match=r"^verb: it "):
            wire.decode("verb", "it", kind, across(rest))
    for key in ("other", "", 5, b"name"):
        with pytest.raises(ArgumentError, match=r"^verb: it"):
            wire.decode("verb", "it", kind, across({**data, key: None}))


JUNK: tuple[Any, ...] = (
    None, True, 0, -1, 2**63, 1.5, "", "x", b"x", [], ["x"], [[]], {},
    {"x": 1}, {5: 5}, "x" * (wire.LONGEST + 1), ["x"] * (wire.MOST + 1),
)  # fmt: skip


def replaced(data: Any, junk: Any) -> Iterator[Any]:
    """The same, with one of its parts another after the other as junk."""
    yield junk
    if isinstance(data, dict):
        for key, each in data.items():
            yield from ({**data, key: it} for it in replaced(each, junk))
    if isinstance(data, list):
        for number, each in enumerate(data):
            for it in replaced(each, junk):
                yield [*data[:number], it, *data[number + 1 :]]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("junk", JUNK, ids=lambda it: repr(it)[:12])
def test_whatever_is_sent_is_refused_or_a_value(
    sample: Any, junk: Any
) -> None:
    kind = type(sample)
    for data in replaced(wire.encode(sample), junk):
        try:
            found = wire.decode("verb", "it", kind, data)
        except LxcUsernsError:
            continue
        # Then that was a value for the field.
        assert returned(found) == found


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.binary(),
    lambda it: st.lists(it) | st.dictionaries(st.text() | st.integers(), it),
)  # fmt: skip


@given(TREES)
def test_no_tree_of_values_breaks_it(data: Any) -> None:
    for kind in CROSSING:
        with pytest.raises(LxcUsernsError):
            wire.decode("verb", "it", kind, data)


#: What contradicts nothing else.
modes = st.one_of(
    st.fixed_dictionaries({"needs": needs}),
    st.fixed_dictionaries({"id_maps": id_maps}),
    st.fixed_dictionaries({"range_size": st.integers(6, 2**32 - 2)}),
)
requests = st.builds(
    lambda fields, **others: InstanceRequest(**fields, **others),
    modes,
    name=texts,
    uuid=texts,
    rootfs=paths,
    strategy=st.sampled_from([None, "auto", "chown"]),
    volumes=st.lists(volumes, max_size=3, unique_by=lambda it: it.target),
    program=st.none() | paths,
    rootfs_kind=st.sampled_from([None, "directory", "image", "archive"]),
    max_processes=st.none() | st.integers(0, 2**22),
    security_model=st.sampled_from([None, "apparmor"]),
    hostname=st.sampled_from([None, "a", "b.example"]),
    grow=st.booleans(),
)
records = st.builds(
    replace,
    st.just(RECORD),
    id_maps=st.none() | id_maps,
    strategy=st.sampled_from(Strategy),
    ready=st.none() | numbers,
    reason=texts,
    volumes=st.lists(volumes, max_size=3).map(tuple),
    needs=needs,
    identities=st.dictionaries(
        texts,
        st.builds(FileIdentity, texts, numbers, numbers, texts, st.booleans()),
        max_size=3,
    ),
    empty=st.dictionaries(
        texts,
        st.lists(st.tuples(numbers, numbers, numbers), max_size=3).map(tuple),
        max_size=3,
    ),
    verified=st.none() | st.builds(Verified, numbers, texts, numbers, numbers),
)


@given(requests)
def test_requests(request: InstanceRequest) -> None:
    assert returned(request) == request


@given(records)
def test_prepared_instances(record: InstanceRecord) -> None:
    prepared = PreparedInstance(record)
    assert returned(prepared) == prepared


def test_arguments_and_results_by_annotations() -> None:
    request = SAMPLES[0]
    sent = {"request": request, "accept_replaced": True}
    data = across(wire.encode(sent))
    assert wire.decode_arguments(daemon.prepare, data) == sent
    wrongs: tuple[Any, ...] = (
        {},
        {"request": data["request"]},
        {**data, "x": 1},
        [],
        None,
    )
    for wrong in wrongs:
        with pytest.raises(ArgumentError, match=r"^prepare: arguments "):
            wire.decode_arguments(daemon.prepare, across(wrong))
    with pytest.raises(ArgumentError, match=r"^prepare: accept_replaced 1: "):
        wire.decode_arguments(daemon.prepare, {**data, "accept_replaced": 1})
    assert wire.decode_result(daemon.unmount, across(None)) is None
    with pytest.raises(ArgumentError, match=r"^unmount: result 0: "):
        wire.decode_result(daemon.unmount, 0)
    assert wire.decode_result(daemon.find_problems, across(["a"])) == ("a",)


def test_a_wrong_value_is_named() -> None:
    data = wire.encode(SAMPLES[2])
    data["record"]["volumes"][1]["readonly"] = 0
    with pytest.raises(ArgumentError) as caught:
        wire.decode("prepare", "result", PreparedInstance, data)
    assert str(caught.value).startswith(
        "prepare: result.record.volumes[1].readonly 0: is of type int; "
    )


@pytest.mark.parametrize("data", ["web1", *map(wire.encode, SAMPLES[:2])])
def test_a_name_or_a_request(data: Any) -> None:
    sent = {"request": data, "accept_replaced": False}
    found = wire.decode_arguments(daemon.prepare, across(sent))
    assert wire.encode(found) == sent
