# SPDX-License-Identifier: Apache-2.0
"""Mounts of a container, where the host's are not known."""

from lxc_userns.verification.compare_mounts import missing_mounts
from tests.unit.verification import observation
from tests.unit.verification.test_verification import PRIVATE


def test_view_of_what_the_host_does_not_have_is_not_looked_for() -> None:
    found = observation.changed(observation.evidence(), host_mounts=())
    assert [*missing_mounts(PRIVATE, found)] == []
