# SPDX-License-Identifier: Apache-2.0
"""The table of audit rules, from the rules themselves.

``.. audit-rules::`` lists those that domain XML alone can break, with the
option ``:live:`` those that need a host. Each links to its page beside the
one that it is on.
"""

from __future__ import annotations

from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import OptionSpec

from lxc_userns.audit import RULES


class AuditRules(SphinxDirective):
    """List the rules of one kind."""

    option_spec: ClassVar[OptionSpec] = {"live": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        lines = [
            ".. list-table::",
            "   :header-rows: 1",
            "   :widths: 30 12 58",
            "",
            "   * - Code",
            "     - Severity",
            "     - What is found",
        ]
        for rule in RULES:
            if rule.is_live == ("live" in self.options):
                lines += [
                    f"   * - :doc:`{rule.code} <{rule.code}>`",
                    f"     - {rule.severity}",
                    f"     - {rule.title}",
                ]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("audit-rules", AuditRules)
    return {"parallel_read_safe": True}
