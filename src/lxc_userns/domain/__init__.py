# SPDX-License-Identifier: Apache-2.0
"""Domain XML of libvirt's LXC driver: what an instance needs put into it.

Pure: text and values in, text and values out. Malformed XML is a
:class:`~lxc_userns.exceptions.DomainXmlError`.

The names are loaded when they are first used, and the XML parser with them.
"""

from lxc_userns import lazy

__getattr__, __dir__ = lazy.attach(__name__, __file__)
