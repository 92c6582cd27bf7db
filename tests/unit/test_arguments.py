# SPDX-License-Identifier: Apache-2.0
"""Arguments of the API of other types: an error of ours that names each."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

import lxc_userns
from lxc_userns import IdMap, IdMaps, Volume, privileged, rootfs
from lxc_userns.exceptions import ArgumentError, LxcUsernsError

ID_MAP = IdMap.parse("0:1900000000:65536")
MAPS = IdMaps(ID_MAP, ID_MAP)
UUID = uuid.UUID("0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c")
XML = "<domain type='lxc'/>"
#: Of none of these types is any argument below.
WRONG = (5, b"/srv", object(), UUID, ["/srv:/data"], {"a": 1}, True, 1.5)


def conf() -> cfg.ConfigOpts:
    made = cfg.ConfigOpts()
    lxc_userns.register_opts(made)
    made([], default_config_files=[], default_config_dirs=[])
    return made


def request(**values: Any) -> lxc_userns.InstanceRequest:
    return lxc_userns.InstanceRequest(
        **{"name": "web1", "uuid": str(UUID), "rootfs": "/srv/web1", **values}
    )


def of_manager(verb: str, **options: Any) -> Callable[[Any], object]:
    def call(value: Any) -> object:
        manager = lxc_userns.UserNamespaceManager(conf())
        return getattr(manager, verb)(value, **options)

    return call


CALLS: dict[str, Callable[[Any], object]] = {
    "IdMaps: uid": lambda it: IdMaps(it, ID_MAP),
    "IdMaps: gid": lambda it: IdMaps(ID_MAP, it),
    "IdMap: entries": IdMap,
    "IdMap.parse: text": IdMap.parse,
    "IdMapEntry.parse: text": lxc_userns.IdMapEntry.parse,
    "Volume.parse: text": Volume.parse,
    "add_id_maps: domain_xml": lambda it: lxc_userns.add_id_maps(it, MAPS),
    "add_id_maps: id_maps": lambda it: lxc_userns.add_id_maps(XML, it),
    "audit_domain: domain_xml": lxc_userns.audit_domain,
    "load_id_maps: conf": lxc_userns.load_id_maps,
    "register_opts: conf": lxc_userns.register_opts,
    "UserNamespaceManager: conf": lxc_userns.UserNamespaceManager,
    "InstanceRequest: name": lambda it: request(name=it),
    "InstanceRequest web1: uuid": lambda it: request(uuid=it),
    "InstanceRequest web1: rootfs": lambda it: request(rootfs=it),
    "InstanceRequest web1: needs": lambda it: request(needs=it),
    "InstanceRequest web1: volumes": lambda it: request(volumes=it),
    "shift: path": lambda it: rootfs.shift(it, MAPS),
    "shift: id_maps": lambda it: rootfs.shift("/srv", it),
    "shift: unmapped": lambda it: rootfs.shift("/srv", MAPS, unmapped=it),
    "unshift: path": rootfs.unshift,
    "verify: path": lambda it: rootfs.verify(it, MAPS),
    "mount_idmapped: source": lambda it: rootfs.mount_idmapped(it, "/x", MAPS),
    "mount_idmapped: id_maps": lambda it: rootfs.mount_idmapped(
        "/srv", "/x", it
    ),
    "mount_overlay: state_dir": lambda it: rootfs.mount_overlay(
        "/srv", it, "/x", MAPS
    ),
    "unmount: target": rootfs.unmount,
    "unpack: archive": lambda it: rootfs.unpack(it, "/srv", MAPS),
    "unpack: id_maps": lambda it: rootfs.unpack("/srv/x.tar", "/srv", it),
    **{
        f"UserNamespaceManager.{verb}: request": of_manager(verb)
        for verb in ("allocate", "prepare")
    },
    **{
        f"UserNamespaceManager.{verb}: instance": of_manager(verb)
        for verb in ("unmount", "sync", "release")
    },
    "UserNamespaceManager.verify: instance": of_manager(
        "verify", started=True
    ),
    "UserNamespaceManager.verify: started": lambda it: of_manager(
        "verify", started=it
    )("web1"),
    "allocate: request": privileged.allocate,
    "prepare: request": privileged.prepare,
    "verify: instance": lambda it: privileged.verify(it, started=True),
    "unmount: instance": privileged.unmount,
    "release: instance": privileged.release,
    "sync: instance": privileged.sync,
}
#: These may be None.
OPTIONAL: dict[str, Callable[[Any], object]] = {
    "InstanceRequest web1: id_maps": lambda it: request(id_maps=it),
    "InstanceRequest web1: strategy": lambda it: request(strategy=it),
    "InstanceRequest web1: program": lambda it: request(program=it),
    "InstanceRequest web1: range_size": lambda it: request(range_size=it),
    "InstanceRequest web1: rootfs_kind": lambda it: request(rootfs_kind=it),
    "InstanceRequest web1: max_processes": lambda it: request(
        max_processes=it
    ),
    "verify: id_maps": lambda it: rootfs.verify("/srv", it),
    "shift: workers": lambda it: rootfs.shift("/srv", MAPS, workers=it),
    "shift: progress": lambda it: rootfs.shift("/srv", MAPS, progress=it),
}
WHOLE_NUMBERS = {"range_size", "max_processes", "workers"}


@pytest.mark.parametrize("name", [*CALLS, *OPTIONAL])
def test_a_wrong_type_is_named(name: str) -> None:
    call = {**CALLS, **OPTIONAL}[name]
    wrong = [*WRONG, None] if name in CALLS else [*WRONG]
    for value in wrong:
        is_number = name.split()[-1] in WHOLE_NUMBERS
        if is_number and type(value) is int:
            continue
        if name.endswith("started") and isinstance(value, bool):
            continue
        if isinstance(value, dict | list) and name == "IdMap.parse: text":
            continue  # Of strings, none of which is an entry.
        with pytest.raises(ArgumentError) as caught:
            call(value)
        assert str(caught.value).startswith(f"{name} ")
        assert "; give " in str(caught.value)


def test_strings_are_no_volumes() -> None:
    for volumes in ("/srv:/data", ["/srv:/data"], ("/srv:/data",)):
        with pytest.raises(ArgumentError, match="a sequence of Volume"):
            request(volumes=volumes)
    volume = Volume.parse("/srv:/data")
    assert request(volumes=[volume]).volumes == (volume,)


def test_a_strategy_of_a_request_is_blamed_on_the_request() -> None:
    with pytest.raises(ArgumentError) as caught:
        request(strategy="bogus")
    assert str(caught.value) == (
        "InstanceRequest web1: strategy 'bogus': expected auto, idmapped, "
        "overlay, chown, or None"
    )


def test_paths_may_be_objects(tmp_path: Path) -> None:
    with pytest.raises(LxcUsernsError, match="absent: no such directory"):
        rootfs.verify(tmp_path / "absent", MAPS)


def test_it_is_what_python_raises_too() -> None:
    for kind in (TypeError, ValueError, LxcUsernsError):
        with pytest.raises(kind, match="load_id_maps"):
            lxc_userns.load_id_maps(None)  # type: ignore[arg-type]
