# SPDX-License-Identifier: Apache-2.0
"""Results that the process around tar writes, which is not the host's root."""

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.archive import supervisor, tar
from lxc_userns.rootfs.archive.limits import UnpackLimits
from lxc_userns.rootfs.archive.outcome import Outcome
from lxc_userns.rootfs.shifting import ipc
from tests.fuzz.mutation import changed, mutated

_TEXTS = [
    b'{"tar": 0, "found": [{"bytes": "a\\u00ff"}], "printed": null}',
    b'{"error": [13, "Permission denied"]}',
]
_TOKENS = [
    b'"bytes"', b"{", b"[" * 50, b"\\u0100", b"\\ud800", b"1e999", b"null",
]  # fmt: skip
_VALUES = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "bytes"),
    st.integers() | st.binary(max_size=40) | st.lists(st.binary(max_size=9)),
    max_size=4,
)
_RESULTS: list[dict[str, object]] = [
    {
        "tar": 0,
        "decompressor": -9,
        "read": 4096,
        "whiteouts": 1,
        "whiteout_files": 0,
        "printed": {"bytes": "\nblock 7: ** Block of NULs **\n"},
        "found": [{"bytes": " SCHILY.acl."}],
        "exceeded": "inodes",
    },
    {"error": [13, "Permission denied"]},
]


@contextmanager
def _file(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("message")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


@given(
    mutated(_TEXTS, _TOKENS),
    st.just(0) | st.integers(-9, 9) | st.integers(0, 2**63),
)
def messages(data: bytes, excess: int) -> None:
    """A message is a dictionary, or is refused; its length is no order."""
    size = struct.pack("<Q", max(0, len(data) + excess))
    with _file(size + data) as fd, suppress(EOFError, ValueError):
        assert isinstance(ipc.receive_plain(fd), dict)


@given(_VALUES)
def values(value: dict[str, object]) -> None:
    """Values that are sent arrive."""
    with _file(b"") as fd:
        ipc.send_plain(fd, value)
        os.lseek(fd, 0, os.SEEK_SET)
        assert ipc.receive_plain(fd) == value


@given(st.sampled_from(_RESULTS).flatmap(changed))
def results(value: object) -> None:
    """A result can be used, or there is one line about it."""
    data = json.dumps(value).encode()
    with _file(struct.pack("<Q", len(data)) + data) as fd:
        try:
            result = tar._receive(fd, "a.tar")
        except RootfsError as err:
            refused = str(err)
        else:
            refused = ""
            _use(result)
    assert refused.isprintable()


def _use(result: Outcome) -> None:
    supervisor.describe_exit(result.tar + result.decompressor)
    if result.exceeded is not None:
        tar._explain(result.exceeded, UnpackLimits())
    tar._END.search(result.printed)
    assert isinstance(b"".join(result.found), bytes)
