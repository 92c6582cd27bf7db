# SPDX-License-Identifier: Apache-2.0
"""Hard links: whether the kernel keeps users from others' files."""

from pathlib import Path

import pytest

from lxc_userns.exceptions import PrerequisiteError
from lxc_userns.linux.hard_links import check_protected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0\n", "protected_hardlinks is 0, .* set it to 1"),
        ("", "protected_hardlinks is , "),
        (None, r"is not known \(No such file or directory\)"),
    ],
)
def test_links_that_anybody_may_make(
    tmp_path: Path, value: str | None, message: str
) -> None:
    sysctl = tmp_path / "sysctl"
    if value is not None:
        sysctl.write_text(value)
    with pytest.raises(PrerequisiteError, match=message):
        check_protected(sysctl)


def test_links_that_only_the_owner_may_make(tmp_path: Path) -> None:
    sysctl = tmp_path / "sysctl"
    sysctl.write_text("1\n")
    check_protected(sysctl)
