# SPDX-License-Identifier: Apache-2.0
"""Rules about namespaces that a container shares: network, IPC, UTS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lxml import etree

from lxc_userns.audit.finding import Rule, Violation
from lxc_userns.audit.id_maps import has_id_maps
from lxc_userns.domain.checks import shown
from lxc_userns.domain.document import LXC_NAMESPACE
from lxc_userns.domain.interface import has_own_network
from lxc_userns.findings import Severity

HOST_NETWORK: Final = Rule(
    "host-network",
    Severity.CRITICAL,
    "the host's network",
    "Without an interface or <privnet/> libvirt leaves the container in the "
    "host's network namespace: it can reach services on the loopback device "
    "and abstract Unix sockets, which have no permissions, and take the "
    "host's ports. With ID maps it may not start, for it cannot mount /sys.",
    "add <privnet/> to <features>, or an <interface>",
)
SHARED_NETWORK: Final = Rule(
    "shared-network",
    Severity.CRITICAL,
    "another's network namespace",
    "What <lxc:sharenet> names may be the host's network namespace; in any "
    "case the container reaches the loopback services and abstract Unix "
    "sockets of others.",
    "remove <lxc:sharenet>, and give it an <interface> or <privnet/>",
)
SHARED_NAMESPACE: Final = Rule(
    "shared-namespace",
    Severity.HIGH,
    "another's IPC or UTS namespace",
    "In a shared IPC namespace the container can read and write what others "
    "keep in System V shared memory; in a shared UTS namespace it can change "
    "their host name.",
    "remove the element",
)
SHARING_REFUSED: Final = Rule(
    "sharing-refused",
    Severity.ERROR,
    "shared namespaces with ID maps, or with a network of its own",
    "libvirt enters shared namespaces from within the new user namespace, "
    "which has no right to; and a network cannot be shared and private.",
    "remove <lxc:namespace>",
)
RULES: Final = (
    HOST_NETWORK,
    SHARED_NETWORK,
    SHARED_NAMESPACE,
    SHARING_REFUSED,
)

_ELEMENT: Final = f"{{{LXC_NAMESPACE}}}namespace"
_SHARED: Final = {"sharenet": "net", "shareipc": "IPC", "shareuts": "UTS"}


def find(domain: etree._Element) -> Iterator[Violation]:
    """Yield all that is wrong with the namespaces that a domain shares."""
    shares = [
        (element, etree.QName(element).localname)
        for element in domain.iterfind(f"{_ELEMENT}/*")
        if etree.QName(element).localname in _SHARED
    ]
    own = has_own_network(domain)
    if not own and all(name != "sharenet" for _, name in shares):
        yield HOST_NETWORK.violation(domain, _host_network(domain))
    for element, name in shares:
        shared = (
            f"<{name}> shares the {_SHARED[name]} namespace of "
            f"{element.get('type')} {shown(element.get('value'))}"
        )
        if name == "sharenet":
            yield SHARED_NETWORK.violation(element, shared)
        else:
            yield SHARED_NAMESPACE.violation(element, shared)
        if has_id_maps(domain):
            yield SHARING_REFUSED.violation(
                element,
                f"{shared}, which a user namespace has no right to enter",
            )
        elif own and name == "sharenet":
            yield SHARING_REFUSED.violation(
                element, f"{shared}, and the domain has a network of its own"
            )


def _host_network(domain: etree._Element) -> str:
    text = (
        "the domain has no <interface> and no <privnet/>: it shares the "
        "host's network"
    )
    if has_id_maps(domain):
        text += "; with ID maps it does not start where cgroups are version 1"
    return text
