# SPDX-License-Identifier: Apache-2.0
"""Configuration of the documentation build."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("_ext")))

project = "lxc-userns"
copyright = "lxc-userns authors"
release = metadata.version("lxc-userns")

extensions = [
    "audit_rules",
    "cliff.sphinxext",
    "command_line",
    "oslo_config.sphinxext",
    "release_notes",
    "sphinx.ext.autodoc",
    "way_of_a_record",
]
# The text says what a reader needs; the types are in the signatures.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"

# Two hyphens begin an option, and quotes are part of what is typed.
smartquotes = False
# Parts of other pages; by themselves the search would find them untitled.
exclude_patterns = ["performance/measured*.rst"]

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
# What cliff gives to every command is said once, in prose.
autoprogram_cliff_application = project
autoprogram_cliff_app_dist_name = project
autoprogram_cliff_ignored = [
    *("--help", "--max-width", "--fit-width", "--print-empty"),
    *("--noindent", "--prefix", "--quote"),
    *("--sort-column", "--sort-ascending", "--sort-descending"),
]

manpages_url = "https://manpages.debian.org/{path}"
