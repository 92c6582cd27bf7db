# SPDX-License-Identifier: Apache-2.0
"""Requests, and their requirements by the name of before."""

from typing import Any

import pytest

import lxc_userns
from lxc_userns.exceptions import LxcUsernsError
from lxc_userns.spec.request import InstanceRequest
from lxc_userns.spec.requirements import Requirements

UUID = "7c1f7a5e-3b52-4a55-9f1d-0c6a2f6f3b10"


@pytest.mark.parametrize("name", ["strategy", "security_model"])
def test_word_that_is_none_of_its_kind_is_refused(name: str) -> None:
    options: dict[str, Any] = {name: "other"}
    with pytest.raises((LxcUsernsError, ValueError), match=f"{name}.*other"):
        InstanceRequest("web", UUID, "/srv/web", **options)


def test_requirements_by_their_old_name_warn() -> None:
    with pytest.warns(DeprecationWarning, match="use Requirements"):
        found = lxc_userns.Needs("host", ("ipc",), ("sys_time",), ("/dev/x",))
    assert found == Requirements("host", ("ipc",), ("sys_time",), ("/dev/x",))
