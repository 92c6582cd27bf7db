# SPDX-License-Identifier: Apache-2.0
"""All fuzz targets, by name: tests of hypothesis."""

from types import ModuleType
from typing import Any

from tests.fuzz import (
    domains,
    images,
    ipc,
    owners,
    proc,
    records,
    subids,
    tar_messages,
)

_MODULES: list[ModuleType] = [
    domains, images, ipc, owners, proc, records, subids, tar_messages,
]  # fmt: skip

TARGETS: dict[str, Any] = {
    f"{module.__name__.rpartition('.')[2]}.{name}": test
    for module in _MODULES
    for name, test in vars(module).items()
    if hasattr(test, "hypothesis")
}
