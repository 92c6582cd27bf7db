# SPDX-License-Identifier: Apache-2.0
"""Warnings of Nova about containers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from nova.virt.libvirt import driver as libvirt_driver

_WITHOUT_MAPS = "Running libvirt-lxc without user namespaces is dangerous"


@contextmanager
def without_warning_of_maps() -> Iterator[None]:
    """Keep Nova from telling that there are no user namespaces.

    It takes no notice but of ID maps that all instances share.
    """
    logger: logging.Logger = libvirt_driver.LOG.logger
    logger.addFilter(_is_other)
    try:
        yield
    finally:
        logger.removeFilter(_is_other)


def _is_other(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_WITHOUT_MAPS)
