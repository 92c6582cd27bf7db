# SPDX-License-Identifier: Apache-2.0
"""``python -m lxc_userns``, and ``lxc-userns``: the command line."""

# What signal(7) is made of, built in: that takes its time to load.
import _signal as signal  # type: ignore[import-not-found]
import sys


def main() -> int:
    """Load the program and run it.

    :returns: exit code, as :func:`lxc_userns.cli.main.main`.
    """
    # To load it takes a while, in which an interrupt finds nothing to undo: it
    # ends the process as it does any, without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lxc_userns.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
