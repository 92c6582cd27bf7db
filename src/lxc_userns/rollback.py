# SPDX-License-Identifier: Apache-2.0
"""Steps that are undone if a later one fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack


def undo(stack: ExitStack, step: Callable[..., object], *args: object) -> None:
    """Take a step if the stack is left by an error, and only then.

    Should the step fail too, that becomes a note of the first error.

    :param stack: the steps so far; they are taken in reverse.
    :param step: what to call, with ``args``.
    """

    def on_exit(
        _type: object, error: BaseException | None, _traceback: object
    ) -> None:
        """Take the step after an error."""
        if error is None:
            return
        try:
            step(*args)
        except Exception as err:
            # What kept the step from being done may keep it from being undone.
            if str(err) != str(error):
                error.add_note(f"while undoing what was done: {err}")

    stack.push(on_exit)
