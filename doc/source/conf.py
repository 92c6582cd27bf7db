# SPDX-License-Identifier: Apache-2.0
"""Configuration of the documentation build."""

from importlib import metadata

project = "lxc-userns"
copyright = "lxc-userns authors"
release = metadata.version("lxc-userns")

extensions = [
    "cliff.sphinxext",
    "oslo_config.sphinxext",
    "sphinx.ext.autodoc",
]
# The text says what a reader needs; the types are in the signatures.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"

html_theme = "alabaster"
html_theme_options = {"description": "User namespaces for libvirt-LXC"}
manpages_url = "https://manpages.debian.org/{path}"
