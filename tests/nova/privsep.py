# SPDX-License-Identifier: Apache-2.0
"""Privileged functions without a daemon of their own."""

from typing import Any

from oslo_privsep import priv_context


def stay_in_process() -> None:
    """Make every new context call its functions in this process."""
    make = priv_context.PrivContext.__init__

    def make_without_daemon(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.set_client_mode(False)

    priv_context.PrivContext.__init__ = (  # type: ignore[method-assign]
        make_without_daemon
    )
