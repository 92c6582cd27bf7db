# SPDX-License-Identifier: Apache-2.0
"""Finder of ``nova.virt.lxc_userns`` for a Nova of a distribution's.

That is a package of its own directory alone, in which nothing else is to be
put: what is installed beside it, or anywhere else, Python does not find there.

``lxc_userns_nova.pth`` has this imported whenever Python starts, with whatever
program. So it imports nothing before it is asked.
"""

import sys

_NAME = "nova.virt.lxc_userns"


class Finder:
    """Finds one module, if nothing before it does."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Return where the module is; None for any other."""
        if name != _NAME:
            return None
        from importlib.util import spec_from_file_location
        from pathlib import Path

        place = Path(__file__).parent.joinpath(*_NAME.split("."))
        return spec_from_file_location(
            name,
            place / "__init__.py",
            submodule_search_locations=[str(place)],
        )


sys.meta_path.append(Finder)
