# SPDX-License-Identifier: Apache-2.0
"""Worlds for whole containers: those of the pipeline below them."""

from tests.unit.manager.conftest import tmp_path, world

__all__ = ["tmp_path", "world"]
