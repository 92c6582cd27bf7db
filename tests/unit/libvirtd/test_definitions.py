# SPDX-License-Identifier: Apache-2.0
"""Files in which libvirt keeps definitions."""

from pathlib import Path

from lxc_userns.libvirtd.definitions import DefinedDomains

UUID = "a8609df0-e759-4761-9d7b-c1757d9acc2b"
OTHER = "11111111-2222-3333-4444-555555555555"
XML = """<!--
WARNING: THIS IS AN AUTO-GENERATED FILE.
-->

<domain type='lxc'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <description>&lt;uuid&gt;{other}&lt;/uuid&gt;</description>
</domain>
"""


def write(directory: Path, name: str, uuid: str) -> Path:
    file = directory / f"{name}.xml"
    file.write_text(XML.format(name=name, uuid=uuid, other=OTHER))
    return file


def test_by_name_and_uuid(tmp_path: Path) -> None:
    defined = DefinedDomains(tmp_path)
    file = write(tmp_path, "web", UUID)
    assert defined.find("web", UUID) == file
    # Of a name that was another domain's before.
    assert defined.find("web", OTHER) is None
    assert defined.find("web", None) == file
    assert defined.find("renamed", UUID) == file
    # A lease can be acquired by UUID.
    assert defined.find(UUID, None) == file
    assert defined.find("we", None) is None


def test_what_cannot_be_read_counts_by_its_name(tmp_path: Path) -> None:
    defined = DefinedDomains(tmp_path)
    file = tmp_path / "web.xml"
    file.write_bytes(b"\xff<domain>")
    assert defined.find("web", UUID) == file
    assert defined.find("other", UUID) is None
    file.unlink()
    file.symlink_to("/nonexistent")
    assert defined.find("web", UUID) == file


def test_no_directory(tmp_path: Path) -> None:
    assert DefinedDomains(tmp_path / "absent").find("web", None) is None
