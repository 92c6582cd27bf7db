# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets work: a few inputs of each, always the same."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_few(target: Any) -> None:
    settings(
        max_examples=40,
        derandomize=True,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )(target)()
