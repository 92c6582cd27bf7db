# SPDX-License-Identifier: Apache-2.0
"""When two looks at a path have found one file."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lxc_userns.linux import file_identity
from lxc_userns.linux.file_identity import FileIdentity

FILE = FileIdentity("boot-1", 7, 42, "1:2a", lasting=True)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, True),
        ({"inode": 43}, False),
        ({"handle": "1:2b"}, False),
        ({"filesystem": 8}, False),
        # The number of a filesystem is another after a reboot.
        ({"boot": "boot-2", "filesystem": 8}, True),
        ({"boot": "boot-2", "inode": 43}, False),
        ({"boot": "boot-2", "handle": "1:2b"}, False),
        ({"boot": "boot-2", "lasting": False}, None),
    ],
)
def test_one_file(changed: dict[str, object], found: bool | None) -> None:
    other = replace(FILE, **changed)  # type: ignore[arg-type]
    assert FILE.is_same(other) is found
    assert other.is_same(FILE) is found


def test_a_name_that_is_given_anew(tmp_path: Path) -> None:
    path = tmp_path / "file"
    found = []
    for _ in range(2):
        path.touch()
        fd = os.open(path, os.O_PATH)
        found.append(file_identity.read(fd))
        os.close(fd)
        path.unlink()
    assert found[0].is_same(found[1]) is False
    assert found[0].is_same(found[0]) is True


def test_there_and_back() -> None:
    assert FileIdentity.from_dict(asdict(FILE)) == FILE


@pytest.mark.parametrize(
    "changed",
    [
        {"inode": "42"},
        {"inode": True},
        {"lasting": 1},
        {"boot": None},
        {"more": 1},
    ],
)
def test_what_is_no_identity(changed: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        FileIdentity.from_dict({**asdict(FILE), **changed})
