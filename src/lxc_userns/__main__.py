# SPDX-License-Identifier: Apache-2.0
"""``python -m lxc_userns``: the command line."""

import sys

from lxc_userns.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
