# SPDX-License-Identifier: Apache-2.0
"""Domains of others that instances can be made of."""

import pytest

from lxc_userns.domain import (
    Convertible,
    Marker,
    read_convertible,
    read_uuid,
)
from lxc_userns.exceptions import DomainXmlError, VolumeError
from lxc_userns.spec.volume import Volume

IDENTIFIER = "5d66d54a-3cf5-455c-963f-05d90bc16fe7"
ROOT = (
    "<filesystem type='{}'><source {}='/srv/web'/><target dir='/'/>"
    "</filesystem>"
)
DIRECTORY = ROOT.format("mount", "dir")
DATA = (
    "<filesystem><source dir='/srv/data'/><target dir='/data'/>"
    "<readonly/></filesystem>"
)
SCRATCH = (
    "<filesystem type='ram'><source usage='1' units='MiB'/>"
    "<target dir='/scratch'/></filesystem>"
)


def make(
    devices: str,
    name: str = "<name>web</name>",
    uuid: str = f"<uuid>{IDENTIFIER}</uuid>",
    more: str = "",
) -> str:
    return (
        f"<domain type='lxc'>{name}{uuid}{more}<os><type>exe</type></os>"
        f"<devices>{devices}</devices></domain>"
    )


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [("mount", "dir"), ("file", "file"), ("block", "dev")],
)
def test_filesystems(kind: str, attribute: str) -> None:
    root = ROOT.format(kind, attribute)
    assert read_convertible(make(DATA + SCRATCH + root)) == Convertible(
        name="web",
        uuid=IDENTIFIER,
        rootfs="/srv/web",
        volumes=(Volume("/srv/data", "/data", readonly=True),),
    )


@pytest.mark.parametrize("uuid", ["", "<uuid/>", "<uuid> </uuid>"])
def test_without_a_uuid(uuid: str) -> None:
    assert read_convertible(make(DIRECTORY, uuid=uuid)).uuid is None


@pytest.mark.parametrize(
    ("uuid", "expected"),
    [
        (IDENTIFIER.upper(), IDENTIFIER),
        (f" {IDENTIFIER.replace('-', '')}\n", IDENTIFIER),
        ("5d66", "5d66"),
    ],
)
def test_a_uuid_as_libvirt_takes_it(uuid: str, expected: str) -> None:
    xml = make(DIRECTORY, uuid=f"<uuid>{uuid}</uuid>")
    assert read_convertible(xml).uuid == expected


@pytest.mark.parametrize("kind", ["file", "block"])
def test_images_that_are_no_root(kind: str) -> None:
    """A volume of one would be a file, not what is in it."""
    image = DATA.replace("<filesystem>", f"<filesystem type='{kind}'>")
    with pytest.raises(DomainXmlError, match="mount it on the host"):
        read_convertible(make(DIRECTORY + image))


@pytest.mark.parametrize("kind", ["file", "block"])
def test_images_that_the_kernel_does_not_mount(kind: str) -> None:
    root = ROOT.format(kind, "file" if kind == "file" else "dev")
    driver = "<driver type='nbd' format='{}'/><source"
    bad = make(root.replace("<source", driver.format("qcow2")))
    remedy = "qemu-img convert -f qcow2 -O raw /srv/web /srv/web.raw"
    with pytest.raises(DomainXmlError, match=remedy):
        read_convertible(bad)
    strange = make(root.replace("<source", driver.format("a b")))
    with pytest.raises(DomainXmlError, match="format 'a b'"):
        read_convertible(strange)
    good = make(root.replace("<source", driver.format("raw")))
    assert read_convertible(good).rootfs == "/srv/web"


def test_sources_that_depend_on_who_looks() -> None:
    """All of them are told; libvirtd would find others, or none."""
    devices = (DIRECTORY + DATA).replace("/srv/", "")
    with pytest.raises(DomainXmlError) as caught:
        read_convertible(make(devices + SCRATCH))
    assert str(caught.value) == (
        "domain web: <source> 'web', 'data': would be looked for in "
        "libvirtd's own working directory; give an absolute path"
    )


@pytest.mark.parametrize("rootfs", ["web", "./web", ""])
def test_a_mark_with_a_relative_path(rootfs: str) -> None:
    marker = Marker(rootfs=rootfs, strategy="overlay")
    with pytest.raises(DomainXmlError, match="': expected an absolute path"):
        read_convertible(make(DIRECTORY, more=marked(marker)))


def test_a_mark_prevails() -> None:
    """Its filesystems are views then."""
    marker = Marker(
        rootfs="/srv/other",
        strategy="overlay",
        volumes=(Volume("/srv/data", "/data"),),
    )
    found = read_convertible(make(DIRECTORY, more=marked(marker)))
    assert found == Convertible(
        name="web",
        uuid=IDENTIFIER,
        rootfs="/srv/other",
        volumes=marker.volumes,
        strategy="overlay",
    )


def marked(marker: Marker) -> str:
    from lxml import etree

    text = etree.tostring(marker.to_element(), encoding="unicode")
    return f"<metadata>{text}</metadata>"


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        (make(DIRECTORY, name=""), "has no <name>; add it"),
        (make(DATA), "found 0; correct it"),
        (make(DIRECTORY + DIRECTORY), "found 2; correct it"),
        (make("<filesystem><target dir='/'/></filesystem>"), "and a source"),
        ("<domain type='kvm'/>", "lxc"),
    ],
)
def test_what_cannot_be_converted(xml: str, told: str) -> None:
    with pytest.raises(DomainXmlError, match=told):
        read_convertible(xml)


def test_a_filesystem_that_is_no_volume() -> None:
    bad = "<filesystem><target dir='/data'/></filesystem>"
    with pytest.raises(VolumeError):
        read_convertible(make(DIRECTORY + bad))


def test_uuid() -> None:
    assert read_uuid(make(DIRECTORY)) == IDENTIFIER
    with pytest.raises(DomainXmlError, match="has no <uuid>; define it"):
        read_uuid(make(DIRECTORY, uuid=""))
