# SPDX-License-Identifier: Apache-2.0
"""Files of ``/proc`` with texts of a container in them."""

import os
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.linux import mounts
from lxc_userns.linux.process import Process

#: No file name and no mount option has a zero.
_bytes = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b"."))
_TRICKY = [
    b" - ", b"\n", b"\\040", b"\r", b"shared:1", b"/ - ext4 a rw", b"\x85",
    b"\xe2\x80\xa8",
]  # fmt: skip
_texts = st.lists(_bytes | st.sampled_from(_TRICKY), max_size=5).map(b"".join)
_number = st.integers(0, 2**31)


def _escape(text: bytes, which: bytes) -> bytes:
    """Escape like the kernel's mangle() and seq_escape()."""
    return b"".join(
        b"\\%03o" % byte if byte in which else bytes([byte]) for byte in text
    )


def _decode(text: bytes) -> str:
    return os.fsdecode(text)


@given(
    _number, _number, _texts, _texts, _texts, st.none() | _number,
    st.none() | _number,
)  # fmt: skip
def mountinfo(
    number: int,
    parent: int,
    point: bytes,
    root: bytes,
    source: bytes,
    peers: int | None,
    master: int | None,
) -> None:
    """Mounts come out as a container calls them."""
    point, root = b"/" + point, b"/" + root
    tags = b""
    if peers is not None:
        tags += b" shared:%d" % peers
    if master is not None:
        tags += b" master:%d" % master
    line = b"%d %d 0:25 %s %s rw,nodev%s - fuse.x %s rw,user_id=0\n" % (
        number,
        parent,
        _escape(root, b" \t\n\\"),
        _escape(point, b" \t\n\\"),
        tags,
        _escape(source, b" \t\n\\#"),
    )
    (mount,) = mounts.parse_all(BytesIO(line))
    assert mount.number == number
    assert mount.point == _decode(point)
    assert mount.root == _decode(root)
    assert mount.source == _decode(source)
    assert mount.options == {"rw", "nodev"}
    assert (mount.peers, mount.master) == (peers, master)


class _Text(Process):
    """A process of which only the files in memory are read."""

    def __init__(self, **files: bytes) -> None:
        self.pid = 1
        self._files = files

    def _read(self, name: str, limit: int = 65536) -> str:
        data = self._files[name].decode(errors="replace")
        return data[:limit]


@given(_texts, _number, st.lists(st.integers(1, 2**22), min_size=1))
def status(name: bytes, parent: int, numbers: list[int]) -> None:
    """A process's name cannot pass for its parent or its capabilities."""
    name = name[:15]
    text = b"Name:\t%s\nUmask:\t0022\nNSpid:\t%s\n" % (
        _escape(name, b"\n\\"),
        b"\t".join(b"%d" % each for each in numbers),
    )
    for key in (b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb"):
        text += b"%s:\t%016x\n" % (key, 5)
    # Of stat the kernel escapes nothing but line breaks.
    stat = b"1 (%s) S %d 1 1 0 -1 4194560 %s\n" % (
        _escape(name, b"\n\\"),
        parent,
        b" ".join(b"%d" % each for each in range(10, 53)),
    )
    process = _Text(status=text, stat=stat)
    assert process.parent == parent
    assert process.start_time == 22
    assert process.is_first == (len(numbers) > 1 and numbers[-1] == 1)
    assert process._capabilities("status") == 5


@given(_texts, _texts)
def cgroup(path: bytes, arguments: bytes) -> None:
    """The path of a control group can have colons in it."""
    path = path.replace(b"\n", b"")
    process = _Text(
        cgroup=b"1:name=systemd:/%s\n0::/%s\n" % (path, path),
        cmdline=arguments.replace(b" ", b"\0"),
    )
    shown = "/" + path.decode(errors="replace")
    assert process.cgroups == {"name=systemd": shown, "": shown}
    assert isinstance(process.command, str)
