# SPDX-License-Identifier: Apache-2.0
"""Options that Nova may register too, with a help text of its own.

oslo.config refuses a second registration that is not equal in every detail,
in Nova's own code if Nova comes second. Python asks the subclass first on
either side of a comparison, so this holds in both orders.
"""

from __future__ import annotations

from oslo_config import cfg


class SharedListOpt(cfg.ListOpt):
    """A list option that is equal to any other of its name."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, cfg.ListOpt) and self.dest == other.dest

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


class SharedStrOpt(cfg.StrOpt):
    """A text option that is equal to any other of its name."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, cfg.StrOpt) and self.dest == other.dest

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]
