# SPDX-License-Identifier: Apache-2.0
"""Commands in messages: quoted, and by the configuration that was given."""

import pytest

from lxc_userns.commands import command, configured_by, conversion
from lxc_userns.exceptions import UnpreparedError


def test_with_the_usual_configuration() -> None:
    assert command("gc", "web") == "lxc-userns gc web"


def test_with_files() -> None:
    with configured_by(["/etc/a b.conf", "/etc/c"]):
        told = str(UnpreparedError("web", "not all files were looked at"))
        with configured_by([]):
            assert command("gc") == "lxc-userns gc"
    assert told == (
        "web: not all files were looked at yet; run: lxc-userns --config-file "
        "'/etc/a b.conf' --config-file /etc/c domain prepare web"
    )
    assert command("gc") == "lxc-userns gc"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("web", (), "web --in-place"),
        ("web", ("--revert",), "web --in-place --revert"),
        ("my box", (), "'my box' --in-place"),
        ("-v", ("--revert",), "--in-place --revert -- -v"),
    ],
)
def test_conversion(name: str, options: tuple[str, ...], words: str) -> None:
    told = conversion(name, *options)
    assert told == f"lxc-userns domain convert {words}"
