# SPDX-License-Identifier: Apache-2.0
"""Answers of the kernel about a process that has ended."""

import errno
import os

import pytest

from lxc_userns.linux.process import Process


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, ProcessLookupError),
        (errno.EINVAL, ProcessLookupError),
        (errno.ESRCH, ProcessLookupError),
        (errno.EACCES, PermissionError),
    ],
)
def test_how_it_shows_that_it_has_ended(
    number: int, kind: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with Process("self") as process:
        monkeypatch.setattr(os, "open", refuse)
        try:
            with pytest.raises(kind):
                _ = process.name
            with pytest.raises(kind), process.open_root():
                pass
        finally:
            monkeypatch.undo()
