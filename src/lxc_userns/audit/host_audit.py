# SPDX-License-Identifier: Apache-2.0
"""The audit of a domain on its host: what its XML alone does not say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from lxml import etree

from lxc_userns import resources
from lxc_userns.audit import Finding, host_rules, static
from lxc_userns.audit.filesystems import (
    FilesystemEntry,
    find_sensitive,
    read_filesystems,
)
from lxc_userns.audit.finding import Violation
from lxc_userns.audit.id_maps import has_id_maps, read_entries
from lxc_userns.audit.locations import to_findings
from lxc_userns.audit.paths import normalised
from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import parse_domain
from lxc_userns.domain.limits import from_domain
from lxc_userns.exceptions import (
    DomainXmlError,
    ExposedTreeError,
    InstanceError,
    NoSuchContainerError,
    RootfsError,
    translated,
)
from lxc_userns.idmap import KINDS
from lxc_userns.instances.damaged import DamagedRecord
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.linux import directory, mounts
from lxc_userns.rootfs import exposure
from lxc_userns.rootfs.shifting import setuid_scan
from lxc_userns.services import Services
from lxc_userns.subid import owners
from lxc_userns.subid.held_ids import RESERVER

_CGROUPS = "/sys/fs/cgroup"
#: Of what there may be many, how many are named.
_MOST = 5
_Record = InstanceRecord | DamagedRecord


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain as libvirt has it.

    :param name: its name.
    :param domain: its XML.
    :param is_active: whether it runs.
    :param record: what we know of it, None if it is not ours.
    """

    name: str
    domain: etree._Element
    is_active: bool
    record: InstanceRecord | None

    @property
    def filesystems(self) -> list[FilesystemEntry]:
        """Its filesystems, each with its source on disk."""
        found = read_filesystems(self.domain)
        if self.record is not None:
            found = [*_on_disk(found, self.record)]
        return [*map(_without_links, found)]


def _on_disk(
    found: list[FilesystemEntry], record: InstanceRecord
) -> Iterator[FilesystemEntry]:
    """Yield filesystems of ours with what is behind their views."""
    volumes = {each.target: each for each in record.volumes}
    view = normalised(record.view)
    for seen in found:
        volume = volumes.get(seen.target)
        if seen.source == view:
            # Below an overlay nothing is written.
            readonly = record.strategy.traits.shares_source
            yield replace(
                seen, source=record.rootfs, readonly=readonly or seen.readonly
            )
        elif volume is not None:
            yield replace(seen, source=volume.source, readonly=volume.readonly)
        else:
            yield seen


def _without_links(seen: FilesystemEntry) -> FilesystemEntry:
    """Return a filesystem with the source that libvirt would mount."""
    if seen.source is None:
        return seen
    return replace(seen, source=normalised(os.path.realpath(seen.source)))


def _find_behind_links(
    domain: etree._Element, run_path: str
) -> Iterator[Violation]:
    """Yield violations of what links of the host lead to."""
    for seen in read_filesystems(domain):
        found = _without_links(seen)
        if found != seen:
            yield from find_sensitive(found, os.path.realpath(run_path))


class Auditor:
    """Audits the domains that libvirt knows.

    What there is on the host is read once.

    :param services: the services of this host.
    """

    def __init__(self, services: Services) -> None:
        self._guests = services.guests
        self._store = services.store
        self._run_path = services.settings.run_path
        self._domains: dict[str, Domain] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all domains, sorted.

        :raises LibvirtError: if libvirt cannot be reached.
        """
        return tuple(sorted(each.name for each in self._guests.list()))

    @cached_property
    def _records(self) -> Mapping[str, _Record]:
        return {each.name: each for each in self._store.load_all()}

    def audit(self, name: str) -> list[Finding]:
        """Return all that weakens the isolation of a domain on this host.

        Of a domain that runs, its XML is what it was started with, and what
        was changed since.

        :returns: all findings, the most severe first, then as in the XML.
        :raises NoSuchContainerError: if libvirt knows none of this name.
        :raises DomainXmlError: if its XML cannot be read.
        :raises InstanceError: if its record cannot be read.
        :raises LxcUsernsError: if the host cannot be looked at.
        """
        damaged = self._records.get(name)
        if isinstance(damaged, DamagedRecord):
            raise InstanceError(name, damaged.reason)
        this = self._read(name)
        others = [*self._others(name)]
        return to_findings(this.domain, self._find(this, others))

    def _read(self, name: str) -> Domain:
        if name not in self._domains:
            self._domains[name] = self._read_anew(name)
        return self._domains[name]

    def _read_anew(self, name: str) -> Domain:
        guest = self._guests.find(name)
        if guest is None:
            raise NoSuchContainerError(name)
        record = self._records.get(name)
        # Somebody else's of the same name, or one that does not say.
        if isinstance(record, DamagedRecord) or (
            record is not None and record.uuid != guest.uuid
        ):
            record = None
        domain = parse_domain(self._guests.xml(name))
        return Domain(name, domain, guest.is_active, record)

    def _others(self, name: str) -> Iterator[Domain]:
        for other in self.names:
            if other == name:
                continue
            try:
                yield self._read(other)
            except (NoSuchContainerError, DomainXmlError):
                continue  # Gone, or it says nothing that could be believed.

    def _find(self, this: Domain, others: list[Domain]) -> Iterator[Violation]:
        domain, known = this.domain, [*mounts.read_mounts()]
        yield from static.find(domain, self._run_path)
        yield from _find_behind_links(domain, self._run_path)
        running = {each.name: each.domain for each in others if each.is_active}
        yield from host_rules.find_overlaps(domain, running)
        yield from _find_held(domain)
        yield from _find_exposed(this)
        yield from host_rules.find_shared(
            this.filesystems, {each.name: each.filesystems for each in others}
        )
        yield from host_rules.find_mounted(
            map(_without_links, read_filesystems(domain)),
            known,
            self._run_path,
        )
        version = self._cgroup_version(this, known)
        yield from host_rules.find_cgroups(domain, version)
        yield from host_rules.find_many(domain, os.uname().release)

    def _cgroup_version(
        self, this: Domain, known: Sequence[mounts.Mount]
    ) -> int | None:
        """Return the version of control groups, None if it does no harm."""
        types = {mount.point: mount.fs_type for mount in known}
        if types.get(_CGROUPS) != "cgroup2":
            return 1 if "cgroup" in types.values() else None
        if this.is_active and has_id_maps(this.domain):
            # They may hold in the group above, which is not its own.
            most = this.record.max_processes if this.record else 0
            with (
                suppress(InstanceError, OSError),
                self._guests.init_process(this.name) as init,
            ):
                limits = from_domain(this.domain)
                found = resources.differences(this.name, init, limits, most)
                return 2 if found else None
        return 2


def _find_held(domain: etree._Element) -> Iterator[Violation]:
    """Yield IDs of the domain that somebody on the host holds."""
    hosts = owners.read_host_uids(), owners.read_host_gids()
    for kind, host in zip(KINDS, hosts, strict=True):
        for entry in read_entries(domain, kind):
            holders = [*map(str, host.holders(entry.host_ids, RESERVER))]
            if holders:
                more = len(holders) - _MOST
                names = ", ".join(holders[:_MOST])
                yield host_rules.IDS_OF_HOST.violation(
                    entry.element,
                    f"host IDs of the {kind} entry {entry} are held by {names}"
                    + (f" and {more} more" if more > 0 else ""),
                )


def _find_exposed(this: Domain) -> Iterator[Violation]:
    """Yield violations if users of the host can reach its root filesystem."""
    for seen in islice((each for each in this.filesystems if each.is_root), 1):
        if seen.source is None or not os.path.isdir(seen.source):
            continue  # An image, or nothing at all.
        path = os.path.realpath(seen.source)
        with translated(RootfsError, path), directory.opened(path) as fd:
            is_shifted = _is_shifted(this, fd)
            try:
                exposure.check_only_root_can_reach(fd, path)
                continue
            except ExposedTreeError as err:
                reason = err.reason
        if not is_shifted:
            yield host_rules.REACHABLE_TREE.violation(
                seen.element, f"{shown(path)}: {reason}"
            )
        elif found := _find_setuid(path):
            yield host_rules.HOST_SETUID.violation(
                seen.element,
                f"{shown(path)} can be reached by users of the host, and "
                f"{found}",
            )


def _find_setuid(path: str) -> str:
    """Return set-ID programs of a shifted tree; empty if there are none."""
    try:
        found = setuid_scan.find(path, _MOST + 1)
    except OSError as err:
        # As of a tree in which directories are moved about.
        return f"could not be looked through: {err.strerror}"
    if not found:
        return ""
    more = " and more" if len(found) > _MOST else ""
    names = ", ".join(found[:_MOST])
    return f"has programs of the host's root: {names}{more}"


def _is_shifted(this: Domain, fd: int) -> bool:
    """Return whether its root filesystem has host IDs on disk."""
    if this.record is not None:
        return this.record.strategy.traits.shifts_on_disk
    mount = mounts.find_mount(fd)
    is_idmapped = mount is not None and "idmapped" in mount.options
    return has_id_maps(this.domain) and not is_idmapped
