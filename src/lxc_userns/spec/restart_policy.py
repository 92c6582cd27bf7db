# SPDX-License-Identifier: Apache-2.0
"""Restart policy of a container."""

from __future__ import annotations

from enum import StrEnum


class RestartPolicy(StrEnum):
    """Policy for a container that has ended without anybody stopping it.

    The words are those of ``Restart=`` in :manpage:`systemd.service(5)`.
    """

    NO = "no"
    #: It is started again if it has failed.
    ON_FAILURE = "on-failure"
    #: It is started again.
    ALWAYS = "always"
