# SPDX-License-Identifier: Apache-2.0
"""Rules about ``<idmap>``: whether there is one, and which IDs are in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lxml import etree

from lxc_userns.audit.finding import Rule, Violation
from lxc_userns.domain.checks import shown
from lxc_userns.findings import Severity
from lxc_userns.idmap import (
    CONTAINER_IDS,
    ID_LIMIT,
    KINDS,
    NOBODY_ID,
    SYSTEMD_CONTAINERS,
    TTY_GID,
    Kind,
)
from lxc_userns.idmap.ranges import overlap

NO_IDMAP: Final = Rule(
    "no-idmap",
    Severity.CRITICAL,
    "no user namespace",
    "Without ID maps libvirt makes no user namespace: root in the container "
    "is root of the host, with its capabilities, and gets out by any of many "
    "known ways.",
    "add <idmap>, as lxc-userns domain idmap does",
)
HOST_ROOT: Final = Rule(
    "idmap-host-root",
    Severity.CRITICAL,
    "host ID 0 is mapped",
    "An ID of the container is the host's root. What belongs to root on the "
    "host, and is visible in the container, is open to it. libvirt and the "
    "kernel accept such a map.",
    "map to host IDs that no one holds",
)
LOW_HOST_IDS: Final = Rule(
    "idmap-low-host-ids",
    Severity.HIGH,
    "host IDs below 65536 are mapped",
    "The host's users and services have such IDs: the container owns their "
    "files where it sees them, and can signal their processes once it is out "
    "of its PID namespace.",
    "map to host IDs from 65536 on that no one holds",
)
REFUSED: Final = Rule(
    "idmap-refused",
    Severity.ERROR,
    "ID maps that libvirt or the kernel refuses",
    "libvirt refuses to define such a domain, or only the kernel refuses it "
    "when the container starts.",
    "correct the entry, or leave one out",
)
FEW_IDS: Final = Rule(
    "idmap-few-ids",
    Severity.WARN,
    "too few IDs for a whole system",
    "A system expects 65536 IDs with nobody, 65534, among them. Files of "
    "other owners show as nobody's, and programs that change to such an ID "
    "fail.",
    "map the guest IDs 0 to 65535",
)
TTY: Final = Rule(
    "idmap-tty",
    Severity.WARN,
    "the container's terminals belong to a group of the host",
    "libvirt (virLXCControllerLookupUsernsMap) passes over the first ID of an "
    "entry, and leaves a group that it does not find as it is: the "
    "container's terminals get the host's group 5, tty.",
    "have guest group 5 in an entry that starts lower",
)
SYSTEMD_RANGE: Final = Rule(
    "idmap-systemd-range",
    Severity.INFO,
    "host IDs that systemd gives to containers",
    "systemd-nspawn and systemd-nsresourced take IDs of 524288 to 1879048191 "
    "for containers of their own, and need not notice this one.",
    "map to host IDs from 2013265920 on, if such containers run here",
)
HIGH_HOST_IDS: Final = Rule(
    "idmap-high-host-ids",
    Severity.INFO,
    "host IDs above 2147483647",
    "Some old software takes such IDs for negative numbers.",
    "map to host IDs below 2147483648",
)
INIT_UNMAPPED: Final = Rule(
    "init-unmapped",
    Severity.ERROR,
    "init runs as an ID that is not mapped",
    "libvirt gives the container's terminal to that ID, and the kernel knows "
    "none for it in the user namespace: the container does not start.",
    "take an ID that is mapped, or map it",
)
RULES: Final = (
    NO_IDMAP,
    HOST_ROOT,
    LOW_HOST_IDS,
    REFUSED,
    FEW_IDS,
    TTY,
    SYSTEMD_RANGE,
    HIGH_HOST_IDS,
    INIT_UNMAPPED,
)

# As libvirt reads them: blanks before, a plus sign and zeros are passed over.
_NUMBER = re.compile(r"[ \t\n\v\f\r]*\+?([0-9]+)")
_WORDS: Final = ("start", "target", "count")
#: Entries that the kernel, and bytes of them that its file takes.
_MOST_ENTRIES = 340
_MOST_BYTES = 4095
#: What the host's users and services have.
_LOW: Final = range(1, 65536)
_HIGH: Final = range(2**31, ID_LIMIT)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of an ID map, whatever is wrong with it.

    :param element: its element.
    :param kind: of which kind its IDs are.
    :param guest: first guest ID.
    :param host: first host ID.
    :param count: number of IDs.
    """

    element: etree._Element
    kind: Kind
    guest: int
    host: int
    count: int

    def __str__(self) -> str:
        return f"{self.guest}:{self.host}:{self.count}"

    @property
    def guest_ids(self) -> range:
        """Its guest IDs."""
        return range(self.guest, self.guest + self.count)

    @property
    def host_ids(self) -> range:
        """Its host IDs."""
        return range(self.host, self.host + self.count)


def has_id_maps(domain: etree._Element) -> bool:
    """Return whether libvirt makes a user namespace, or would try."""
    return domain.find("idmap/uid") is not None or (
        domain.find("idmap/gid") is not None
    )


def read_entries(domain: etree._Element, kind: Kind) -> list[Entry]:
    """Return the entries of all ``<idmap>`` that libvirt can read."""
    found = (_read(each, kind) for each in domain.iterfind(f"idmap/{kind}"))
    return [entry for entry in found if entry is not None]


def _read(element: etree._Element, kind: Kind) -> Entry | None:
    guest, host, count = (_number(element.get(word, "")) for word in _WORDS)
    if guest is None or host is None or count is None:
        return None
    return Entry(element, kind, guest, host, count)


def _number(text: str) -> int | None:
    match = _NUMBER.fullmatch(text)
    # For thousands of digits Python takes its time, or refuses.
    if match is None or len(match[1].lstrip("0")) > len(str(ID_LIMIT)):
        return None
    return int(match[1].lstrip("0") or "0")


def find(domain: etree._Element) -> Iterator[Violation]:
    """Yield all that is wrong with a domain's ID maps."""
    if not has_id_maps(domain):
        yield NO_IDMAP.violation(
            domain,
            "the domain has no ID maps (<idmap>): root in the container is "
            "root of the host",
        )
        return
    place = domain.findall("idmap")[0]
    for kind in KINDS:
        elements = domain.findall(f"idmap/{kind}")
        entries = read_entries(domain, kind)
        yield from _malformed(elements, entries, kind)
        yield from _refused(place, entries, kind, len(elements))
        yield from _unwise(place, entries, kind)
    yield from _init(domain)


def _malformed(
    elements: Iterable[etree._Element], entries: Iterable[Entry], kind: Kind
) -> Iterator[Violation]:
    read = {entry.element for entry in entries}
    for element in elements:
        if element not in read:
            numbers = ", ".join(
                f"{word} {shown(element.get(word))}" for word in _WORDS
            )
            yield REFUSED.violation(
                element,
                f"the {kind} entry with {numbers} is malformed: three decimal "
                f"numbers up to {ID_LIMIT - 1} are expected",
            )


def _refused(
    place: etree._Element, entries: Sequence[Entry], kind: Kind, number: int
) -> Iterator[Violation]:
    if not number:
        yield REFUSED.violation(
            place,
            f"<idmap> has no {kind} entry; libvirt wants both or neither",
        )
        return
    for entry in entries:
        yield from _refused_entry(entry)
    for name in ("guest_ids", "host_ids"):
        yield from _overlaps(entries, name)
    if entries and not any(0 in entry.guest_ids for entry in entries):
        yield REFUSED.violation(
            place, f"guest {kind} 0 is not mapped; a container needs its root"
        )
    size = sum(
        len(f"{entry.guest} {entry.host} {entry.count}\n") for entry in entries
    )
    if number > _MOST_ENTRIES or size > _MOST_BYTES:
        yield REFUSED.violation(
            place,
            f"<idmap> has {number} {kind} entries, {size} bytes for the "
            f"kernel, which takes at most {_MOST_ENTRIES} and {_MOST_BYTES} "
            "bytes",
        )


def _refused_entry(entry: Entry) -> Iterator[Violation]:
    what = f"the {entry.kind} entry {entry}"
    if entry.count == 0:
        yield REFUSED.violation(
            entry.element, f"{what} has no IDs: count is 0"
        )
    for side, ids in (("guest", entry.guest_ids), ("host", entry.host_ids)):
        if max(ids.start + 1, ids.stop) > ID_LIMIT:
            yield REFUSED.violation(
                entry.element,
                f"{what} has {side} IDs beyond {ID_LIMIT - 1}, the highest",
            )


def _overlaps(entries: Sequence[Entry], name: str) -> Iterator[Violation]:
    """Yield overlaps of neighbours: without these there are no others."""

    def start(entry: Entry) -> int:
        ids: range = getattr(entry, name)
        return ids.start

    ordered = sorted((each for each in entries if each.count), key=start)
    for one, other in pairwise(ordered):
        if start(other) < start(one) + one.count:
            side = name.partition("_")[0]
            yield REFUSED.violation(
                other.element,
                f"{side} IDs of the {one.kind} entries {one} and {other} "
                "overlap",
            )


def _unwise(
    place: etree._Element, entries: Sequence[Entry], kind: Kind
) -> Iterator[Violation]:
    for entry in entries:
        yield from _unwise_entry(entry)
    if not entries:
        return
    total = sum(entry.count for entry in entries)
    if total < CONTAINER_IDS:
        yield FEW_IDS.violation(
            place,
            f"only {total} {kind}s are mapped, a system expects "
            f"{CONTAINER_IDS}",
        )
    elif not _maps(entries, NOBODY_ID):
        yield FEW_IDS.violation(
            place, f"guest {kind} {NOBODY_ID} (nobody) is not mapped"
        )
    if kind == "gid" and not _maps(entries, TTY_GID):
        yield TTY.violation(
            place, f"guest group {TTY_GID} (tty) is not mapped at all"
        )


def _unwise_entry(entry: Entry) -> Iterator[Violation]:
    what, element = f"the {entry.kind} entry {entry}", entry.element
    if 0 in entry.host_ids:
        yield HOST_ROOT.violation(
            element, f"{what} makes guest {entry.kind} {entry.guest} host ID 0"
        )
    elif overlap(entry.host_ids, _LOW):
        yield LOW_HOST_IDS.violation(
            element,
            f"{what} uses host IDs from {entry.host} on, where the host's "
            "users and services live",
        )
    if overlap(entry.host_ids, SYSTEMD_CONTAINERS):
        yield SYSTEMD_RANGE.violation(
            element,
            f"{what} uses host IDs of {SYSTEMD_CONTAINERS.start}-"
            f"{SYSTEMD_CONTAINERS.stop - 1}, which systemd gives to "
            "containers of its own",
        )
    if overlap(entry.host_ids, _HIGH):
        yield HIGH_HOST_IDS.violation(
            element, f"{what} uses host IDs above {_HIGH.start - 1}"
        )
    if entry.kind == "gid" and entry.guest == TTY_GID and entry.count:
        yield TTY.violation(
            element,
            f"{what} starts at guest group {TTY_GID} (tty), which libvirt "
            "misreads",
        )


def _init(domain: etree._Element) -> Iterator[Violation]:
    for kind, name in zip(KINDS, ("inituser", "initgroup"), strict=True):
        element = domain.find(f"os/{name}")
        if element is None:
            continue
        number = _number(element.text or "")
        entries = read_entries(domain, kind)
        if number is not None and entries and not _maps(entries, number):
            yield INIT_UNMAPPED.violation(
                element, f"<{name}> is {number}, a {kind} that is not mapped"
            )


def _maps(entries: Iterable[Entry], guest_id: int) -> bool:
    return any(guest_id in entry.guest_ids for entry in entries)
