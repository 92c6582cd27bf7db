# SPDX-License-Identifier: Apache-2.0
"""All that an instance needs, put into the domain of others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from lxml import etree

from lxc_userns.audit import Severity, audit_domain
from lxc_userns.domain import (
    Filesystem,
    Marker,
    apply,
    parts,
    read_id_maps,
    read_marker,
    read_root_source,
)
from lxc_userns.domain.document import child, parse_domain
from lxc_userns.domain.filesystem import source_of, target_of
from lxc_userns.exceptions import DomainConflictError, DomainXmlError
from lxc_userns.spec.requirements import Device
from lxc_userns.spec.volume import Volume
from tests.unit.domain import strategies
from tests.unit.domain.outside import outside
from tests.unit.domain.samples import (
    DOCUMENTS,
    MAPS,
    PUNCHED_MAPS,
    SCHEMA,
    UUID,
    VIEWS,
    promise,
)

needs_schema = pytest.mark.skipif(
    not SCHEMA.exists(), reason="libvirt's RELAX NG schema is not installed"
)
BARE = promise("bare")
#: What is put into a document with next to nothing in it, in its layout.
ADDED = f"""
\t<uuid>{UUID}</uuid>
\t\t<lxc-userns:container xmlns:lxc-userns="urn:lxc-userns:domain:1.0" \
strategy="idmapped">
\t\t\t<lxc-userns:rootfs>/srv/bare</lxc-userns:rootfs>
\t\t</lxc-userns:container>
\t<idmap>
\t\t<uid start="0" target="100000" count="65536"/>
\t\t<gid start="0" target="100000" count="65536"/>
\t</idmap>
\t<features>
\t\t<privnet/>
\t\t<capabilities policy="deny">
\t\t\t<audit_write state="on"/>
\t\t\t<chown state="on"/>
\t\t\t<dac_override state="on"/>
\t\t\t<dac_read_search state="on"/>
\t\t\t<fowner state="on"/>
\t\t\t<fsetid state="on"/>
\t\t\t<ipc_lock state="on"/>
\t\t\t<ipc_owner state="on"/>
\t\t\t<kill state="on"/>
\t\t\t<lease state="on"/>
\t\t\t<linux_immutable state="on"/>
\t\t\t<net_admin state="on"/>
\t\t\t<net_bind_service state="on"/>
\t\t\t<net_broadcast state="on"/>
\t\t\t<net_raw state="on"/>
\t\t\t<setfcap state="on"/>
\t\t\t<setgid state="on"/>
\t\t\t<setpcap state="on"/>
\t\t\t<setuid state="on"/>
\t\t\t<sys_admin state="on"/>
\t\t\t<sys_boot state="on"/>
\t\t\t<sys_chroot state="on"/>
\t\t\t<sys_nice state="on"/>
\t\t\t<sys_ptrace state="on"/>
\t\t\t<sys_resource state="on"/>
\t\t\t<sys_tty_config state="on"/>
\t\t</capabilities>
\t</features>
\t\t<filesystem type="mount">
\t\t\t<source dir="/run/lxc-userns/instance/root"/>
\t\t\t<target dir="/"/>
\t\t</filesystem>"""


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(file=str(SCHEMA))


def is_part(text: str, whole: str) -> bool:
    """Return whether all of a text is in another, in its order."""
    rest = iter(whole)
    return all(char in rest for char in text)


def refused(text: str, wanted: parts.DomainParts) -> tuple[str, ...]:
    with pytest.raises(DomainConflictError) as caught:
        apply(text, wanted)
    assert caught.value.name == wanted.name
    assert "\n" not in str(caught.value)
    return caught.value.conflicts


def test_everything_is_added_and_all_else_is_kept() -> None:
    text = DOCUMENTS["bare"]
    edited = apply(text, BARE)
    rest, added = edited, ADDED.removeprefix("\n")
    for part in split(added.splitlines(keepends=False)):
        assert rest.count(part) == 1
        rest = rest.replace(part, "")
    assert rest == text


def split(lines: list[str]) -> Iterable[str]:
    """Give the elements of some lines, each whole, with its line break."""
    part = ""
    for line in lines:
        part += f"\n{line}"
        if parses(part):
            yield part
            part = ""
    assert not part


def parses(text: str) -> bool:
    try:
        etree.fromstring(text.strip())
    except etree.XMLSyntaxError:
        return False
    return True


def test_on_one_line() -> None:
    text = (
        "<domain type='lxc'><name>bare</name><memory>1</memory>"
        "<os><type>exe</type></os></domain>"
    )
    edited = apply(text, BARE)
    assert "\n" not in edited
    assert is_part(text, edited)


@needs_schema
@pytest.mark.parametrize("name", DOCUMENTS)
def test_samples_are_valid(schema: etree.RelaxNG, name: str) -> None:
    schema.assertValid(etree.fromstring(DOCUMENTS[name].encode()))


#: How the promise of each document differs, and what contradicts it.
CASES: dict[str, tuple[dict[str, object], list[str]]] = {
    "addresses": ({}, []),
    "allow": (
        {},
        [
            "<capabilities> of policy 'allow': keeps audit_control, "
            "block_suspend, mac_override, mknod, sys_pacct, sys_rawio, "
            "sys_time, syslog, wake_alarm, not promised; remove it"
        ],
    ),
    "bare": ({}, []),
    "busybox": ({}, []),
    "capabilities": (
        {},
        [
            "<capabilities> of policy 'default': keeps block_suspend, "
            "mac_override, mknod, sys_pacct, sys_rawio, syslog, wake_alarm, "
            "not promised; remove it"
        ],
    ),
    "consoles": ({}, []),
    "debian": ({"id_maps": PUNCHED_MAPS}, []),
    "devices": (
        {
            "devices": (
                Device("/dev/net/tun", "char"),
                Device("/dev/vdc", "block"),
            )
        },
        [],
    ),
    "host-mode": ({"id_maps": None, "host_namespaces": ("network",)}, []),
    "hostdev": (
        {"devices": (Device("/dev/fuse", "char"),)},
        [
            "<hostdev> '/dev/sdb1': was not promised; request the device, or "
            "remove it"
        ],
    ),
    "hostdev-net": (
        {},
        [
            "<hostdev> 'enp3s0': was not promised; request the device, or "
            "remove it"
        ],
    ),
    "images": (
        {},
        [
            "<filesystem> '/' of source '/srv/root.img': the source is to be "
            "'/run/lxc-userns/instance/root'; correct it, or leave the "
            "element out",
            "<filesystem> '/data' of type 'file', source '/srv/d.qcow2': was "
            "not promised; request it as a volume",
            "<filesystem> '/mnt' of type 'block', source '/dev/vdb': was not "
            "promised; request it as a volume",
            "<filesystem> '/srv' of type 'mount', source '/srv/v': was not "
            "promised; request it as a volume",
        ],
    ),
    "interfaces": (
        {},
        [
            "<hostdev> 'eno2': was not promised; request the device, or "
            "remove it"
        ],
    ),
    "private": ({}, []),
    "shared": (
        {"id_maps": None, "host_namespaces": ("uts",)},
        [
            "<lxc:sharenet> netns 'blue': was not promised; remove it",
            "<lxc:shareipc> name 'host-mode': was not promised; remove it",
        ],
    ),
    "sharenet": (
        {"id_maps": None, "host_namespaces": ("ipc",)},
        ["<lxc:sharenet> name 'front': was not promised; remove it"],
    ),
    "tuned": (
        {"security_model": "selinux", "partition": "/machine/a"},
        [
            "<seclabel> of type 'static', model selinux: 'dynamic' was "
            "promised; correct it, or remove it",
            "<partition> '/machine/tenants': its limits hold in "
            "'/machine/a'; remove it",
        ],
    ),
    "volumes": (
        {
            "filesystems": (
                Filesystem(f"{VIEWS}/root", "/"),
                Filesystem(f"{VIEWS}/volume0", "/data", ("/srv/v & w",)),
            )
        },
        [
            "<filesystem> '/data/b' of type 'mount', source "
            "'/srv/volumes/b': was not promised; request it as a volume",
        ],
    ),
}


def test_each_sample_has_its_case() -> None:
    assert CASES.keys() == DOCUMENTS.keys()


@needs_schema
@pytest.mark.parametrize("name", CASES)
def test_sample(schema: etree.RelaxNG, name: str) -> None:
    changes, conflicts = CASES[name]
    text, wanted = DOCUMENTS[name], promise(name, **changes)
    if conflicts:
        assert [*refused(text, wanted)] == conflicts
        return
    edited = apply(text, wanted)
    schema.assertValid(etree.fromstring(edited.encode()))
    assert apply(edited, wanted) == edited
    assert outside(edited, text, wanted) == outside(text, text, wanted)
    assert read_marker(edited) == wanted.marker
    assert read_root_source(edited) == f"{VIEWS}/root"


@needs_schema
@given(made=strategies.documents)
def test_any_document(
    schema: etree.RelaxNG, made: strategies.Document
) -> None:
    wanted = strategies.PRIVATE
    schema.assertValid(etree.fromstring(made.text.encode()))
    if not made.fits:
        assert refused(made.text, wanted)
        return
    edited = apply(made.text, wanted)
    schema.assertValid(etree.fromstring(edited.encode()))
    assert apply(edited, wanted) == edited
    assert has_all(edited, wanted)
    assert not [
        each
        for each in audit_domain(edited)
        if each.severity >= Severity.HIGH and each.code != "host-device"
    ]


def has_all(edited: str, wanted: parts.DomainParts) -> bool:
    """Look for each part of the promise, by libvirt's paths."""
    domain = parse_domain(edited)
    assert read_id_maps(edited) == wanted.id_maps
    assert read_marker(edited) == wanted.marker
    assert domain.findtext("uuid", "").lower() == wanted.uuid
    found = [
        (source_of(each), target_of(each))
        for each in domain.iterfind("devices/filesystem[@type='mount']")
    ]
    assert found == [(each.source, each.target) for each in wanted.filesystems]
    targets = [
        each.get("dir")
        for each in domain.iterfind("devices/filesystem/target")
    ]
    if "/data/deep/tmp" in targets:
        assert targets.index("/data/deep") < targets.index("/data/deep/tmp")
    assert domain.findtext("devices/hostdev/source/char") == "/dev/fuse"
    assert domain.findtext("resource/partition") == wanted.partition
    assert child(domain, "features/capabilities", "policy") == "deny"
    assert child(domain, "seclabel", "type") == "dynamic"
    return (
        domain.find("devices/interface") is not None
        or domain.find("features/privnet") is not None
    )


@given(made=strategies.documents)
def test_all_else_stays(made: strategies.Document) -> None:
    """Outside what the promise decides all is in its place, byte for byte."""
    for wanted in (strategies.PRIVATE, strategies.HOST):
        try:
            edited = apply(made.text, wanted)
        except DomainConflictError:
            continue
        assert outside(edited, made.text, wanted) == outside(
            made.text, made.text, wanted
        )


@needs_schema
@given(made=strategies.documents)
def test_mode_host(schema: etree.RelaxNG, made: strategies.Document) -> None:
    """There are no ID maps, and what was promised of the host is there."""
    try:
        edited = apply(made.text, strategies.HOST)
    except DomainConflictError:
        return
    schema.assertValid(etree.fromstring(edited.encode()))
    domain = parse_domain(edited)
    assert read_id_maps(edited) is None
    assert not [*domain.iterfind("features/privnet")]
    assert read_root_source(edited) == f"{VIEWS}/root"
    lxc = "{http://libvirt.org/schemas/domain/lxc/1.0}"
    (shared,) = domain.iterfind(f"{lxc}namespace/*")
    assert shared.tag == f"{lxc}shareipc"
    assert child(domain, "features/capabilities/mknod", "state") == "on"
    assert apply(edited, strategies.HOST) == edited


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


def bare(old: str = "", new: str = "") -> str:
    text = DOCUMENTS["bare"]
    assert old in text
    return text.replace(old, new, 1)


NOTHING = "<capabilities policy='default'/>"
CONSOLE = "<console type='pty'/>"
SHARED = (
    "<lxc:namespace xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'>"
    "<lxc:share{} type='pid' value='{}'/></lxc:namespace>"
)


def idmap(uid: str, gid: str) -> str:
    return f"<idmap><uid {uid}/><gid {gid}/></idmap>"


def filesystem(kind: str, source: str, target: str, rest: str = "") -> str:
    name = {"file": "file", "block": "dev", "ram": "usage"}.get(kind, "dir")
    return (
        f"<filesystem type='{kind}'><source {name}='{source}'/>"
        f"<target dir='{target}'/>{rest}</filesystem>"
    )


ENTRY = "start='0' target='100000' count='65536'"
VOLUMES = (
    Filesystem(f"{VIEWS}/root", "/", ("/srv/bare",)),
    Filesystem(f"{VIEWS}/volume0", "/data", ("/srv/data",)),
    Filesystem(f"{VIEWS}/volume1", "/read", ("/srv/read",), True),
)


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
            f"is not the instance's '{UUID}'; apply the instance to its own",
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


@pytest.mark.parametrize(
    "text",
    [
        "<domain type='kvm'/>",
        "<domain type='lxc'><os><type>hvm</type></os></domain>",
        "<domain",
        "<!DOCTYPE d><domain type='lxc'><os><type>exe</type></os></domain>",
        "",
    ],
)
def test_no_lxc_domain(text: str) -> None:
    with pytest.raises(DomainXmlError):
        apply(text, BARE)


def test_what_was_edited_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two parsers work on the text; a difference must not pass."""
    edited = iter(["<a/>", "<b/>"])
    monkeypatch.setattr(parts, "_apply", lambda *_: next(edited))
    with pytest.raises(DomainXmlError, match="cannot be edited"):
        apply(DOCUMENTS["bare"], BARE)


MARKER = Marker(
    rootfs="/srv/a%b\n\udcff é<&",
    rootfs_kind="image",
    strategy="overlay",
    volumes=(Volume("/srv/a:b", "/c", "none", readonly=True),),
    mode="private",
    mode_reasons=("one", "two; three"),
)


def test_marker() -> None:
    edited = apply(bare(), replace(BARE, marker=MARKER))
    assert read_marker(edited) == MARKER
    assert "<x:own a='1&gt;0' b=\"it's\"><os/><idmap/></x:own>" in edited


@pytest.mark.parametrize(
    "old",
    [
        "<o:container strategy='chown'><o:rootfs>/x</o:rootfs></o:container>",
        "<o:instance/>",
        "<o:container/><o:more/>",
        "<o:container><o:rootfs>/x</o:rootfs></o:container>",
        "<o:container strategy='a'><o:rootfs>/x</o:rootfs>"
        "<o:volume>x</o:volume></o:container>",
    ],
)
def test_other_marker_is_replaced(old: str) -> None:
    text = bare("xmlns:x=", 'xmlns:o="urn:lxc-userns:domain:1.0" xmlns:x=')
    edited = apply(text.replace("<metadata>", f"<metadata>{old}"), BARE)
    assert read_marker(edited) == BARE.marker
    assert "<o:" not in edited


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ("<o:other/>", "not a marker"),
        ("<o:container/>", "not a marker"),
        ("<o:container><o:rootfs/></o:container>", "has no strategy"),
        (
            "<o:container strategy='a'><o:rootfs><b/></o:rootfs>"
            "</o:container>",
            "expected text alone",
        ),
        (
            "<o:container strategy='a'><o:rootfs/><o:volume>x</o:volume>"
            "</o:container>",
            "metadata: volume 'x'",
        ),
    ],
)
def test_bad_marker(marker: str, reason: str) -> None:
    text = bare("xmlns:x=", 'xmlns:o="urn:lxc-userns:domain:1.0" xmlns:x=')
    with pytest.raises(DomainXmlError, match=reason):
        read_marker(text.replace("<metadata>", f"<metadata>{marker}"))


def test_no_marker() -> None:
    assert read_marker(DOCUMENTS["bare"]) is None


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


def test_a_disk_without_a_source_is_named_by_its_type() -> None:
    disk = "<disk type='file'><source file=' '/></disk>"
    text = bare(CONSOLE, f"{CONSOLE}{disk}")
    (conflict,) = refused(text, promise("bare"))
    assert conflict.startswith("<disk> 'file': ")


def test_mode_host_without_capabilities_adds_none() -> None:
    wanted = promise("bare", id_maps=None, dropped_capabilities=())
    assert "<capabilities" not in apply(bare(), wanted)


def test_label_of_another_module_is_left() -> None:
    label = "<seclabel type='none' model='dac'/>"
    text = bare("<seclabel type='none'/>", label)
    edited = apply(text, promise("bare", security_model="apparmor"))
    assert label in edited
    assert 'model="apparmor"' in edited
