# SPDX-License-Identifier: Apache-2.0
"""Finding elements as libvirt does, which is not always as XML means it."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree


def children(
    domain: etree._Element, parent: str, name: str
) -> Iterator[etree._Element]:
    """Elements of a name, in whatever XML namespace, just below others.

    Of some elements libvirt compares the local name alone: for one,
    ``<x:capabilities>`` counts.

    :param parent: path of the elements above.
    :param name: local name.
    """
    for element in domain.iterfind(f"{parent}/*"):
        if etree.QName(element).localname == name:
            yield element
