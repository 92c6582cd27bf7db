# SPDX-License-Identifier: Apache-2.0
"""User namespaces for libvirt-LXC containers.

The public API, importable from here; everything else may change. The names
are loaded when they are first used, so that importing the package costs
nothing and loads neither libvirt nor any option. They are in the stub beside
this file.
"""

from lxc_userns import lazy

__getattr__, __dir__ = lazy.attach(__name__, __file__)
