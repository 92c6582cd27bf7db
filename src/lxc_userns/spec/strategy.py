# SPDX-License-Identifier: Apache-2.0
"""Strategies: how the files of an image come to belong to mapped IDs.

The names and their traits; :mod:`lxc_userns.rootfs.views.strategies` does
what they say.
"""

from enum import StrEnum


class Strategy(StrEnum):
    """A strategy, by the name that a configuration and a record have."""

    AUTO = "auto"
    IDMAPPED = "idmapped"
    OVERLAY = "overlay"
    CHOWN = "chown"
    #: What a container without ID maps has.
    PLAIN = "plain"


#: Names that can be asked for.
NAMES = (Strategy.AUTO, Strategy.IDMAPPED, Strategy.OVERLAY, Strategy.CHOWN)
