# SPDX-License-Identifier: Apache-2.0
"""Messages of tar, with names of members in them."""

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.rootfs.archive.tar_errors import TarDiagnostics
from tests.fuzz.mutation import mutated

_LINES = [
    b"tar: a/b: Cannot mknod: Operation not permitted\n",
    b"tar: c: Cannot hard link to 'a/b': No such file or directory\n",
    b"tar: a: Cannot change ownership to uid 70000, gid 5: Invalid argument\n",
    b"tar: Removing leading `/' from member names\n",
    b"tar: Exiting with failure status due to previous errors\n",
    b"tar: x: Cannot set POSIX ACLs for file: Invalid argument\n",
    b"tar: x: Wrote only 512 of 10240 bytes\n",
    b"xz: (stdin): Compressed data is corrupt\n",
]
_TOKENS = [
    b": ", b"\\", b"\\:", b"\n", b"\r", b"\x1b[2J", b"\xff", b"tar: ", b"'",
    b"POSIX ACLs", b": Invalid argument", b"9" * 40,
]  # fmt: skip


def _hear(*parts: bytes) -> tuple[object, ...]:
    complaints = TarDiagnostics()
    for part in (*filter(None, parts), b""):
        complaints.feed(part)
    return complaints.devices, complaints.owners, complaints.first


@given(
    st.lists(mutated(_LINES, _TOKENS), max_size=6).map(b"".join),
    st.lists(st.integers(1, 40), max_size=6),
)
def complaints(said: bytes, sizes: list[int]) -> None:
    """A cut of the stream does not matter; what is shown is harmless."""
    parts, rest = [], said
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    devices, owners, first = _hear(said)
    assert _hear(*parts, rest) == (devices, owners, first)
    assert isinstance(first, str | None)
    if first is not None:
        assert first.isprintable()
        assert len(first) < 1000
