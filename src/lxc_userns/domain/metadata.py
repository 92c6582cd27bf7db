# SPDX-License-Identifier: Apache-2.0
"""Marker of this package in a domain's ``<metadata>``.

There it survives everything that libvirt does with a domain; of several
elements with one XML namespace libvirt keeps the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from lxml import etree

from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import attribute, parse_domain, text_of
from lxc_userns.domain.splice import Editor
from lxc_userns.exceptions import DomainXmlError, VolumeError
from lxc_userns.spec.volume import Volume

#: Our XML namespace; the key for ``virDomainSetMetadata`` too.
NAMESPACE: Final = "urn:lxc-userns:domain:1.0"
_PREFIX: Final = "lxc-userns"
_CONTAINER: Final = f"{{{NAMESPACE}}}container"
_ROOTFS: Final = f"{{{NAMESPACE}}}rootfs"
_VOLUME: Final = f"{{{NAMESPACE}}}volume"
_REASON: Final = f"{{{NAMESPACE}}}mode-reason"
#: What XML or one line of it cannot carry, and what says so.
_UNFIT: Final = re.compile(
    "[%\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """Marker of a domain that this package serves.

    :param rootfs: its root filesystem on the host, as it was asked for.
    :param rootfs_kind: ``directory``, ``image`` or ``archive``; None if that
        is not known.
    :param strategy: how its view is made.
    :param volumes: what else of the host it sees.
    :param mode: ``private`` or ``host``; None if that is not decided.
    :param mode_reasons: why that.
    """

    rootfs: str
    strategy: str
    rootfs_kind: str | None = None
    volumes: tuple[Volume, ...] = ()
    mode: str | None = None
    mode_reasons: tuple[str, ...] = ()

    def to_element(self) -> etree._Element:
        """Return ``<lxc-userns:container>``."""
        element = etree.Element(
            _CONTAINER,
            {"mode": self.mode} if self.mode else {},
            nsmap={_PREFIX: NAMESPACE},
            strategy=self.strategy,
        )
        kind = {"kind": self.rootfs_kind} if self.rootfs_kind else {}
        for tag, attributes, text in (
            (_ROOTFS, kind, self.rootfs),
            *((_VOLUME, {}, str(each)) for each in self.volumes),
            *((_REASON, {}, each) for each in self.mode_reasons),
        ):
            etree.SubElement(element, tag, attributes).text = _escape(text)
        return element

    @classmethod
    def from_element(cls, element: etree._Element) -> Marker:
        """Read ``<lxc-userns:container>``.

        :raises DomainXmlError: if it is none of these.
        """
        root = element.find(_ROOTFS)
        if element.tag != _CONTAINER or root is None:
            raise DomainXmlError(
                f"metadata <{element.tag}>: is not a marker; remove it, and "
                "convert the domain again"
            )
        try:
            volumes = tuple(map(Volume.parse, _texts(element, _VOLUME)))
        except VolumeError as err:
            raise DomainXmlError(f"metadata: {err}") from None
        found = cls(
            rootfs=_unescape(text_of(root)),
            rootfs_kind=root.get("kind"),
            strategy=attribute(element, "strategy"),
            volumes=volumes,
            mode=element.get("mode"),
            mode_reasons=tuple(_texts(element, _REASON)),
        )
        if not found.rootfs.startswith("/"):
            raise DomainXmlError(
                f"metadata <rootfs> {shown(found.rootfs)}: expected an "
                "absolute path"
            )
        return found


def _texts(element: etree._Element, tag: str) -> Iterator[str]:
    for each in element.iterfind(tag):
        yield _unescape(text_of(each))


def _escape(text: str) -> str:
    def quote(match: re.Match[str]) -> str:
        data = match[0].encode(errors="surrogatepass")
        if "\udc80" <= match[0] <= "\udcff":  # A byte that was no text.
            data = match[0].encode(errors="surrogateescape")
        return "".join(f"%{byte:02X}" for byte in data)

    return _UNFIT.sub(quote, text)


def _unescape(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def put(domain: etree._Element, marker: Marker, editor: Editor) -> None:
    """Give a ``<domain>`` this marker, in place of any that it has."""
    present = [*_ours(domain)]
    if not present:
        metadata = etree.Element("metadata")
        editor.add_in(metadata, [marker.to_element()], "uuid", "name")
    elif _read(present[0]) != marker:
        editor.replace(present[0], marker.to_element())
    for other in present[1:]:
        editor.remove(other)


def _read(element: etree._Element) -> Marker | None:
    try:
        return Marker.from_element(element)
    except DomainXmlError:
        return None


def is_marked(domain: etree._Element) -> bool:
    """Return whether a ``<domain>`` has a marker, well-formed or not."""
    return any(True for _ in _ours(domain))


def _ours(domain: etree._Element) -> Iterator[etree._Element]:
    for element in domain.iterfind("metadata/*"):
        if etree.QName(element).namespace == NAMESPACE:
            yield element


def read_marker(domain_xml: str) -> Marker | None:
    """Read what this package noted in a domain.

    :param domain_xml: an LXC domain, from anywhere.
    :returns: None for a domain that this package does not serve.
    :raises DomainXmlError: if this is not an LXC domain, or its marker is
        malformed.
    """
    for element in _ours(parse_domain(domain_xml)):
        return Marker.from_element(element)
    return None
