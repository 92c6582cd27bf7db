# SPDX-License-Identifier: Apache-2.0
"""Steps in which an instance is prepared, for who wants to be told."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

from lxc_userns.instances.record import InstanceRecord, volume_name

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """A step.

    :param name: its name, as ``shift``.
    :param what: what is done to what.
    """

    name: str
    what: str


def log(instance: str, *steps: Step) -> None:
    """Write steps that are about to be taken to the log of a debugger."""
    for step in steps:
        _LOG.debug("%s: step %s: %s", instance, step.name, step.what)


def of_preparation(record: InstanceRecord) -> Iterator[Step]:
    """Yield the steps for an instance that has nothing yet."""
    yield allocate(record)
    if record.archive is not None:
        yield unpack(record)
    yield from shift(record)
    yield from mount(record)


def allocate(record: InstanceRecord) -> Step:
    """Return the step that gives it ID maps, or none."""
    maps = record.id_maps
    what = (
        f"no ID maps, it is in the host's user namespace: "
        f"{'; '.join(record.mode_reasons)}"
        if maps is None
        else f"uid_map {maps.uid}, gid_map {maps.gid}"
    )
    return Step("allocate", what)


def unpack(record: InstanceRecord) -> Step:
    """Return the step that unpacks its archive."""
    return Step("unpack", f"{record.archive} to {record.rootfs}")


def shift(record: InstanceRecord) -> Iterator[Step]:
    """Yield the steps that change the owners of files on disk."""
    if record.strategy.traits.shifts_on_disk:
        yield Step("shift", f"the owners of all files in {record.rootfs}")
    for volume in record.volumes:
        if volume.owners == "chown":
            yield Step("shift", f"the owners of all files in {volume.source}")


def mount(record: InstanceRecord) -> Iterator[Step]:
    """Yield the steps that mount its views."""
    strategy = f"strategy {record.strategy}"
    why = f": {record.reason}" if record.reason else ""
    what = f"{record.rootfs} at {record.view}, {strategy}{why}"
    yield Step("mount", what)
    parent = os.path.dirname(record.view)
    for number, volume in enumerate(record.volumes):
        point = f"{parent}/{volume_name(number)}"
        yield Step("mount", f"{volume.source} at {point}, {volume.owners}")
