# SPDX-License-Identifier: Apache-2.0
"""Domains of others that contradict what an instance is promised."""

from __future__ import annotations

import pytest

from lxc_userns.domain import (
    Filesystem,
    apply,
)
from lxc_userns.spec.requirements import Device
from tests.unit.domain.changes import (
    BARE,
    CONSOLE,
    ENTRY,
    NOTHING,
    SHARED,
    VOLUMES,
    bare,
    filesystem,
    idmap,
    refused,
)
from tests.unit.domain.samples import (
    DOCUMENTS,
    UUID,
    VIEWS,
    promise,
)


def test_a_filesystem_that_was_added_to_what_is_marked() -> None:
    """Volumes cannot be requested there any more."""
    marked = apply(DOCUMENTS["bare"], BARE)
    added = filesystem("mount", "/srv/x", "/x") + "</devices>"
    (told,) = refused(marked.replace("</devices>", added), BARE)
    assert "was not promised; remove it, or" in told
    assert "lxc-userns domain convert bare --in-place --revert" in told
    assert "request" not in told


def test_what_is_of_the_host() -> None:
    added = filesystem("bind", "/.oldroot/etc", "/x") + "</devices>"
    marked = apply(DOCUMENTS["bare"], BARE)
    (told,) = refused(marked.replace("</devices>", added), BARE)
    assert "is of the host; give it as type 'mount', by its path" in told


@pytest.mark.parametrize(
    ("old", "new", "changes", "conflict"),
    [
        (
            "bare</name>",
            "b</name>",
            {},
            "<name> 'b': is not the instance's 'b",
        ),
        ("<name>bare</name>", "", {}, "<name> None: is not the instance's"),
        (
            "<os>",
            f"<uuid>{UUID[::-1]}</uuid><os>",
            {},
            f"is not the instance's '{UUID}'; call apply_to with the XML of",
        ),
        ("<os>", "<uuid/><os>", {}, "<uuid> '': is not the instance's"),
        (
            "<os>",
            f"{idmap(ENTRY, ENTRY.replace('100000', '200000'))}<os>",
            {},
            "<idmap> 0:100000:65536 0:200000:65536: 0:100000:65536 "
            "0:100000:65536 was promised; remove it",
        ),
        ("<os>", "<idmap/><os>", {}, "<idmap>: no <uid> entry; .*; remove it"),
        (
            "<os>",
            f"{idmap(ENTRY, ENTRY)}<os>",
            {"id_maps": None},
            "<idmap> .*: none was promised; remove it",
        ),
        (
            CONSOLE,
            f"{filesystem('mount', '/srv/x', '/data')}{CONSOLE}",
            {"filesystems": VOLUMES},
            "<filesystem> '/data' of source '/srv/x': the source is to be "
            f"'{VIEWS}/volume0'; correct it, or leave the element out",
        ),
        (
            CONSOLE,
            filesystem("mount", "/srv/data", "/data", "<readonly/>"),
            {"filesystems": VOLUMES},
            "<filesystem> '/data' with <readonly/>: it is not promised read-",
        ),
        (
            CONSOLE,
            2 * filesystem("mount", "/srv/data", "/data"),
            {"filesystems": VOLUMES},
            "<filesystem> '/data': is there twice; leave one",
        ),
        (
            CONSOLE,
            filesystem("mount", "/srv/data", "/data/./"),
            {"filesystems": VOLUMES},
            "<filesystem> '/data/./': libvirt does not take it for '/data';",
        ),
        (
            CONSOLE,
            filesystem("template", "debian", "/x"),
            {},
            "<filesystem> '/x' of type 'template', source 'debian': was not",
        ),
        (
            CONSOLE,
            filesystem("ram", "9", "/dev/pts/x"),
            {},
            "<filesystem> '/dev/pts/x': libvirt has a mount of its own",
        ),
        (
            CONSOLE,
            filesystem("bind", "/x/../.oldroot", "/y"),
            {},
            "<filesystem> '/y' of source '/x/../.oldroot': is of the host; ",
        ),
        (
            CONSOLE,
            filesystem("bind", "/x", "/y", "<readonly/>"),
            {},
            "filesystem '/y' would be writable",
        ),
        (
            CONSOLE,
            filesystem("mount", f"{VIEWS}/volume0", "/data")
            + filesystem("ram", "9", "/"),
            {"filesystems": VOLUMES},
            "<filesystem> '/' of source '9': the source is to be",
        ),
        (
            CONSOLE,
            filesystem("mount", f"{VIEWS}/deep", "/data/deep")
            + filesystem("ram", "9", "/data"),
            {
                "filesystems": (
                    *VOLUMES[:1],
                    Filesystem(f"{VIEWS}/deep", "/data/deep"),
                )
            },
            "<filesystem> '/data': libvirt would unmount '/data/deep', which "
            "is below; put it before",
        ),
        (
            CONSOLE,
            filesystem("ram", "9", "/data/deep/a")
            + filesystem("ram", "9", "/data"),
            {
                "filesystems": (
                    *VOLUMES[:1],
                    Filesystem(f"{VIEWS}/deep", "/data/deep"),
                )
            },
            "<filesystem> '/data': libvirt would unmount '/data/deep', which ",
        ),
        (
            CONSOLE,
            "<hostdev mode='subsystem' type='usb'><source startupPolicy='mand"
            "atory'/></hostdev>",
            {},
            "<hostdev> 'mandatory': was not promised",
        ),
        (
            CONSOLE,
            "<hostdev mode='subsystem' type='misc'><source><char>/dev/fuse"
            "</char></source></hostdev>",
            {"devices": (Device("/dev/fuse", "char"),)},
            "<hostdev> '/dev/fuse': was not promised",
        ),
        (
            CONSOLE,
            "<disk type='file'><source file='/a'/></disk>",
            {},
            "<disk> '/a': was not promised; request the device, or what is",
        ),
        (
            CONSOLE,
            "<interface type='bridge'><source bridge='b'/></interface>",
            {"id_maps": None, "host_namespaces": ("network",)},
            "<interface> or <privnet/>: the host's network was promised",
        ),
        (
            "<os>",
            "<features><capabilities policy='deny'/></features><os>",
            {"kept_capabilities": ("kill",)},
            "<capabilities> of policy 'deny': drops kill, promised; remove",
        ),
        (
            "<os>",
            "<features><x:capabilities policy='allow'/></features><os>",
            {"id_maps": None, "dropped_capabilities": ()},
            "<capabilities> of policy 'allow': keeps audit_control, mac_admi",
        ),
        (
            "<os>",
            "<features><capabilities policy='default'><syslog state='off'/>"
            "<wake_alarm state='off'/></capabilities></features><os>",
            {"dropped_capabilities": ("syslog", "wake_alarm")},
            "<capabilities> of policy 'default': keeps those that libvirt has",
        ),
        (
            "<os>",
            "<features><capabilities policy='deny'><bpf state='on'/>"
            "</capabilities></features><os>",
            {},
            "<capabilities>: capability 'bpf': expected one of",
        ),
        (
            "<os>",
            f"<features>{2 * NOTHING}</features><os>",
            {},
            "<capabilities>: is there twice; leave one",
        ),
        (
            "type='none'/>",
            "type='none' model='apparmor'/>",
            {"security_model": "apparmor"},
            "<seclabel> of type 'none', model apparmor: 'dynamic' was promis",
        ),
        (
            "<os>",
            f"{SHARED.format('ipc', '2')}<os>",
            {"id_maps": None, "host_namespaces": ("ipc",)},
            "<lxc:shareipc> pid '2': was not promised; remove it",
        ),
        (
            "<os>",
            f"{SHARED.format('user', '1')}<os>",
            {},
            "<lxc:shareuser> pid '1': was not promised; remove it",
        ),
        (
            "</init>",
            "</init><initenv name='A'>&lt;uid/></initenv>",
            {},
            "environment variable A '<uid/>': has '<', '&'",
        ),
    ],
)
def test_contradiction(
    old: str, new: str, changes: dict[str, object], conflict: str
) -> None:
    text = bare(old, new)
    conflicts = refused(text, promise("bare", **changes))
    with pytest.raises(AssertionError, match=conflict):
        raise AssertionError("; ".join(conflicts))


def test_every_contradiction_at_once() -> None:
    text = bare("bare</name>", "b</name>")
    text = text.replace(CONSOLE, f"{filesystem('block', '/a', '/b')}<disk/>")
    text = text.replace("<os>", f"<idmap/>{SHARED.format('uts', '1')}<os>")
    assert len(refused(text, BARE)) == 5


def test_a_disk_without_a_source_is_named_by_its_type() -> None:
    disk = "<disk type='file'><source file=' '/></disk>"
    text = bare(CONSOLE, f"{CONSOLE}{disk}")
    (conflict,) = refused(text, promise("bare"))
    assert conflict.startswith("<disk> 'file': ")
