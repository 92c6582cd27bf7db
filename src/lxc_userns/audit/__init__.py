# SPDX-License-Identifier: Apache-2.0
"""Security audit of domain XML.

Pure: text in, findings out. Rules are defined beside the code that looks for
them; :data:`RULES` has all of them. ::

    for finding in audit_domain(domain_xml):
        if finding.severity >= Severity.HIGH:
            print(finding.code, finding.message, finding.xpath)
"""

from lxc_userns.audit.finding import Finding, Rule
from lxc_userns.audit.rules import RULES
from lxc_userns.audit.static import RUN_PATH, audit_domain
from lxc_userns.findings import Severity

__all__ = [
    "RULES",
    "RUN_PATH",
    "Finding",
    "Rule",
    "Severity",
    "audit_domain",
]
