# SPDX-License-Identifier: Apache-2.0
"""Root filesystems: shifted on disk, or seen through a view.

The names are loaded when they are first used, so that a worker process,
which lives in this package too, starts quickly. They are in the stub beside
this file.
"""

from lxc_userns import lazy

__getattr__, __dir__ = lazy.attach(__name__, __file__)
