# SPDX-License-Identifier: Apache-2.0
"""Metrics of a host, in the text format of Prometheus.

See https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from lxc_userns.containers.state import (
    Container,
    StateReader,
    describe_record,
)
from lxc_userns.exceptions import LibvirtError, PrerequisiteError
from lxc_userns.instances.failures import Failure
from lxc_userns.instances.record import InstanceRecord

if TYPE_CHECKING:
    from lxc_userns.libvirtd.guest import Guest
    from lxc_userns.services import Services

_VERIFIED = ("running", "paused")
_UNKNOWN, _NONE = "unknown", "none"


def render(services: Services) -> tuple[str, LibvirtError | None]:
    """Return the metrics of a host, and why libvirt could not be asked.

    Without libvirt they tell what is on record: the state of each container
    is ``unknown`` then.

    :param services: the services of the host.
    :raises ConfigError: if the configuration or the state path cannot be
        used.
    """
    snapshot = _Snapshot.take(services)
    return generate_latest(snapshot).decode(), snapshot.error


@dataclass(frozen=True, slots=True)
class _Snapshot(Collector):
    """State of a host at one moment.

    :param services: the services of the host.
    :param containers: its containers.
    :param damaged: number of records that cannot be read.
    :param error: why libvirt could not be asked.
    """

    services: Services
    containers: tuple[Container, ...]
    damaged: int
    error: LibvirtError | None

    @classmethod
    def take(cls, services: Services) -> _Snapshot:
        """Look at a host."""
        found = services.store.load_all()
        records = [each for each in found if isinstance(each, InstanceRecord)]
        damaged = len(found) - len(records)
        names = {each.name for each in found}
        try:
            guests = [
                each
                for each in services.guests.list()
                if each.name not in names
            ]
            containers = tuple(_describe(services, records, guests))
        except LibvirtError as err:
            return cls(
                services,
                tuple(describe_record(each, _UNKNOWN) for each in records),
                damaged,
                err,
            )
        return cls(services, containers, damaged, None)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield GaugeMetricFamily(
            "lxc_userns_libvirt_up",
            "Whether libvirt could be asked.",
            int(self.error is None),
        )
        yield self._containers()
        yield self._verified()
        yield GaugeMetricFamily(
            "lxc_userns_damaged_records",
            "Records of containers that cannot be read.",
            self.damaged,
        )
        yield self._leases()
        yield self._failures()

    def _containers(self) -> Metric:
        labels = ("state", "mode", "strategy")
        metric = GaugeMetricFamily(
            "lxc_userns_containers",
            "Containers that libvirt or this package knows.",
            labels=labels,
        )
        counts = Counter(
            (each.state, each.mode or _UNKNOWN, each.strategy or _NONE)
            for each in self.containers
        )
        for values, count in sorted(counts.items()):
            metric.add_metric(values, count)
        return metric

    def _verified(self) -> Metric:
        metric = GaugeMetricFamily(
            "lxc_userns_container_seconds_since_verified",
            "Time since a running container was last found as promised.",
            labels=("name",),
        )
        now = self.services.ports.clock()
        for each in self.containers:
            # Of others there is no record, and none is needed before a start.
            if each.state in _VERIFIED and each.strategy is not None:
                written = self.services.store.last_written(each.name)
                if written is not None:
                    metric.add_metric((each.name,), max(now - written, 0.0))
        return metric

    def _leases(self) -> Metric:
        allocator = self.services.allocator
        metric = GaugeMetricFamily(
            "lxc_userns_leases",
            "Leases that instances hold, that can still be given, and that "
            "wait for a tree that is shifted for them.",
            labels=("state",),
        )
        with allocator.leases.read() as leases:
            metric.add_metric(("held",), len(leases.all()))
        if allocator.pool.owner:
            try:
                usage = allocator.pool.usage()
            except (LibvirtError, PrerequisiteError):
                return metric
            waiting = {each.ids.start for each in usage.waiting}
            metric.add_metric(("free",), usage.free)
            metric.add_metric(("waiting",), len(waiting))
        return metric

    def _failures(self) -> Metric:
        metric = CounterMetricFamily(
            "lxc_userns_failures",
            "Failures since the host was booted.",
            labels=("kind",),
        )
        counts = self.services.failures.read()
        for kind in Failure:
            metric.add_metric((kind.value,), counts[kind])
        return metric


def _describe(
    services: Services, records: list[InstanceRecord], guests: list[Guest]
) -> Iterator[Container]:
    states = StateReader(services)
    yield from map(states.describe, records)
    yield from map(states.describe_foreign, guests)
