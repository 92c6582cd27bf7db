# SPDX-License-Identifier: Apache-2.0
"""The audit of domain XML by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lxml import etree

from lxc_userns.arguments import checked
from lxc_userns.audit import filesystems, id_maps, namespaces, privileges
from lxc_userns.audit.finding import Finding, Violation
from lxc_userns.audit.locations import to_findings
from lxc_userns.domain.document import parse_domain

#: Where views are by default.
RUN_PATH: Final = "/run/lxc-userns"


@checked(domain_xml=str, run_path=str)
def audit_domain(
    domain_xml: str, *, run_path: str = RUN_PATH
) -> list[Finding]:
    """Return everything in a domain that weakens its isolation from the host.

    The domain need not be one that this package would make. What is only
    known on a host, such as who else has its IDs, is not looked at.

    :param domain_xml: an LXC domain, from anywhere.
    :param run_path: where the views of this package are; what is below is
        for a container.
    :returns: all findings, the most severe first, then as in the document.
    :raises DomainXmlError: if this is not an LXC domain, not well-formed, or
        has a document type; entities are never expanded.
    """
    domain = parse_domain(domain_xml)
    return to_findings(domain, find(domain, run_path))


def find(domain: etree._Element, run_path: str) -> Iterator[Violation]:
    """Yield all rules that a ``<domain>`` breaks, in no particular order."""
    yield from id_maps.find(domain)
    yield from namespaces.find(domain)
    yield from filesystems.find(domain, run_path)
    yield from privileges.find(domain)
