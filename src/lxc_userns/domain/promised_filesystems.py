# SPDX-License-Identifier: Apache-2.0
"""Filesystems that a domain is to have, among those that it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from lxml import etree

from lxc_userns.domain.checks import shown
from lxc_userns.domain.filesystem import (
    OLDROOT,
    Filesystem,
    is_reserved,
    is_within,
    normalised,
    source_of,
    target_of,
    type_of,
    userns_problems,
)
from lxc_userns.domain.splice import Editor


def conflicts(
    domain: etree._Element,
    promised: Sequence[Filesystem],
    editor: Editor,
    remedy: str,
) -> Iterator[str]:
    """Yield what contradicts the promise; edit what does not.

    An element of something that a view shows, of whatever type, becomes one
    of the view.

    :param promised: in the order in which libvirt has to mount them.
    :param remedy: what is to be done with one that was not promised.
    """
    by_target = {each.target: each for each in promised}
    found: list[tuple[etree._Element, str]] = []
    for element in domain.iterfind("devices/filesystem"):
        target = target_of(element) or ""
        found.append((element, target))
        ours = by_target.get(target)
        if ours is None:
            yield from _foreign_conflicts(element, target, by_target, remedy)
        else:
            yield from _own_conflicts(element, ours, editor)
    targets = [target for _, target in found]
    for target, number in Counter(targets).items():
        if number > 1:
            yield f"<filesystem> {shown(target)}: is there twice; leave one"
    yield from _hidden(targets, by_target)
    for each in promised:
        if each.target not in targets:
            yield from _add(each, found, domain, editor)


def _own_conflicts(
    element: etree._Element, ours: Filesystem, editor: Editor
) -> Iterator[str]:
    what, source = _describe(element), source_of(element) or ""
    readonly = element.find("readonly") is not None
    is_view = type_of(element) == "mount" and source == ours.source
    if not is_view and normalised(source) not in ours.origins:
        yield (
            f"{what} of source {shown(source)}: the source is to be "
            f"{shown(ours.source)}; correct it, or leave the element out"
        )
    elif readonly and not ours.readonly:
        yield (
            f"{what} with <readonly/>: it is not promised read-only; ask for "
            "that where it is requested, and leave <readonly/> out"
        )
    elif readonly or not is_view:
        editor.replace(element, ours.to_element())


def _foreign_conflicts(
    element: etree._Element,
    target: str,
    promised: dict[str, Filesystem],
    remedy: str,
) -> Iterator[str]:
    what, kind = _describe(element), type_of(element)
    readonly = element.find("readonly") is not None
    if normalised(target) in promised:
        yield (
            f"{what}: libvirt does not take it for "
            f"{shown(normalised(target))}; write it so"
        )
    elif kind not in ("bind", "ram"):
        yield (
            f"{what} of type {shown(kind)}, source "
            f"{shown(source_of(element))}: was not promised; {remedy}"
        )
    elif is_reserved(normalised(target)):
        yield f"{what}: libvirt has a mount of its own there; move it"
    elif kind == "bind" and is_within(
        normalised(source_of(element) or ""), OLDROOT
    ):
        yield (
            f"{what} of source {shown(source_of(element))}: is of the host; "
            "give it as type 'mount', by its path there"
        )
    else:
        yield from userns_problems(kind, target, readonly)


def _hidden(
    targets: list[str], promised: dict[str, Filesystem]
) -> Iterator[str]:
    """Yield promised ones that a later filesystem is mounted on."""
    for number, target in enumerate(targets):
        if target == "/" or target not in promised:
            continue
        for later in targets[number + 1 :]:
            if later != target and is_within(target, normalised(later)):
                yield (
                    f"<filesystem> {shown(later)}: libvirt would unmount "
                    f"{shown(target)}, which is below; put it before"
                )


def _add(
    ours: Filesystem,
    found: list[tuple[etree._Element, str]],
    domain: etree._Element,
    editor: Editor,
) -> Iterator[str]:
    """Add a missing one after those above it, and before those below."""
    below = next(
        (
            number
            for number, (_, target) in enumerate(found)
            if target != "/" and is_within(normalised(target), ours.target)
        ),
        len(found),
    )
    for _, target in found[below:]:
        if target != "/" and is_within(ours.target, normalised(target)):
            yield (
                f"<filesystem> {shown(target)}: libvirt would unmount "
                f"{shown(ours.target)}, which is below; put it before"
            )
    element = ours.to_element()
    if below < len(found):
        editor.insert_before(found[below][0], element)
    elif found:
        editor.insert_after(found[-1][0], element)
    else:
        _add_first(domain, element, editor)


def _add_first(
    domain: etree._Element, element: etree._Element, editor: Editor
) -> None:
    emulator = domain.find("devices/emulator")
    if emulator is None:
        # After ID maps and features, which come after <os>.
        editor.add_in(etree.Element("devices"), [element], "os")
    else:
        editor.insert_after(emulator, element)


def _describe(element: etree._Element) -> str:
    return f"<filesystem> {shown(target_of(element))}"
