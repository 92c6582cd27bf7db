# SPDX-License-Identifier: Apache-2.0
"""All that an instance needs, put into the domain of others."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from lxml import etree

from lxc_userns.audit import Severity, audit_domain
from lxc_userns.domain import (
    Filesystem,
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
from tests.unit.domain import strategies
from tests.unit.domain.changes import BARE, refused
from tests.unit.domain.outside import outside
from tests.unit.domain.samples import (
    DOCUMENTS,
    PUNCHED_MAPS,
    SCHEMA,
    UUID,
    VIEWS,
    needs_schema,
    promise,
)

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
    schema.assertValid(parse_domain(edited))
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
    schema.assertValid(parse_domain(made.text))
    if not made.fits:
        assert refused(made.text, wanted)
        return
    edited = apply(made.text, wanted)
    schema.assertValid(parse_domain(edited))
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
    schema.assertValid(parse_domain(edited))
    domain = parse_domain(edited)
    assert read_id_maps(edited) is None
    assert not [*domain.iterfind("features/privnet")]
    assert read_root_source(edited) == f"{VIEWS}/root"
    lxc = "{http://libvirt.org/schemas/domain/lxc/1.0}"
    (shared,) = domain.iterfind(f"{lxc}namespace/*")
    assert shared.tag == f"{lxc}shareipc"
    assert child(domain, "features/capabilities/mknod", "state") == "on"
    assert apply(edited, strategies.HOST) == edited


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
