# SPDX-License-Identifier: Apache-2.0
"""Archives that are not whole, not right, or meant to do harm."""

import gzip
import os
import re
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.archive import unpack as unpacking
from tests.functional.rootfs import golden
from tests.functional.rootfs.archives import (
    BASE,
    DEVICE,
    DIRECTORY,
    Member,
    both,
    compress,
    craft,
    hard_link,
    link,
    refused,
    unpack,
)
from tests.functional.rootfs.sandbox import tar_with

pytestmark = [
    pytest.mark.needs("mounts"),
    pytest.mark.usefixtures("no_holder_left"),
]


@pytest.mark.parametrize(
    ("spoil", "reasons"),
    [
        (lambda data: data[: len(data) // 2], "Unexpected EOF"),
        (lambda data: data[: 2 * 1536], "cut short"),
        (
            lambda data: data[: 2 * 1536] + bytes(512) + data,
            "goes on after a lone block of zeros",
        ),
        (lambda data: data[:1536] + b"!" * 512, "Skipping to next header"),
    ],
)
def test_plain_archives_that_are_not_whole(
    tmp_path: Path, spoil: Callable[[bytes], bytes], reasons: str
) -> None:
    archive = craft(
        tmp_path / "a.tar",
        *((f"f{number}", {"data": bytes(1024)}) for number in range(5)),
        tar_format=tarfile.USTAR_FORMAT,
    )
    data = archive.read_bytes()[: 5 * 1536 + 512 * 3 - 700]
    archive.write_bytes(spoil(data))
    assert re.search(reasons, refused(archive, tmp_path / "out"))
    # Nor does it help that what is compressed is whole.
    packed = compress(archive, "gz")
    assert re.search(reasons, refused(packed, tmp_path / "out"))


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [
        ("gz", "unexpected end of file|crc error"),
        ("xz", "Unexpected end of input|corrupt"),
        ("zst", "premature end|[Cc]orrupt|Unexpected EOF|cut short|checksum"),
    ],
)
def test_compressed_archives_that_are_not_whole(
    tmp_path: Path, suffix: str, reason: str
) -> None:
    large = {"data": os.urandom(300_000)}
    archive = craft(tmp_path / "a.tar", ("a", large), ("b", large))
    packed = compress(archive, suffix)
    data = packed.read_bytes()
    for size in (20, len(data) // 2, len(data) - 1):
        packed.write_bytes(data[:size])
        assert re.search(f"{reason}|tar: ", refused(packed, tmp_path / "out"))
    middle = len(data) // 2
    packed.write_bytes(data[:middle] + bytes(1000) + data[middle + 1000 :])
    refused(packed, tmp_path / "out")


def test_what_is_compressed_is_no_archive(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    for data in (b"", b"text", os.urandom(100_000)):
        archive.write_bytes(gzip.compress(data))
        reason = refused(archive, tmp_path / "out")
        assert "does not look like a tar archive" in reason


def test_several_streams_in_one_file(tmp_path: Path) -> None:
    data = craft(tmp_path / "a.tar", ("a", {}), ("b", {})).read_bytes()
    archive = tmp_path / "a.tar.gz"
    halves = data[:1024], data[1024:]
    archive.write_bytes(b"".join(map(gzip.compress, halves)))
    assert unpack(archive, tmp_path / "out").inodes == 3
    archive.write_bytes(gzip.compress(halves[0]))
    assert "cut short" in refused(archive, tmp_path / "other")


DEEP = "/".join(["d" * 200] * 30)


@both
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("../a", {})], r"tar: ../a: Member name contains '\.\.'"),
        ([("a/..", {})], r"Member name contains '\.\.'"),
        ([(DEEP, {})], "d{100}: Cannot open: File name too long"),
        ([("n" * 256, {})], "Cannot open: File name too long"),
        ([("a", {}), ("a/b", {})], "a/b: Cannot open: Not a directory"),
        ([("a/b", {}), ("a", {})], "a: Cannot open: File exists"),
        ([(".", {})], r"\.: Cannot open: File exists"),
        ([(".", link("/tmp")), ("a", {})], r"\.: Cannot open: File exists"),
        ([("a", {"type": b"Q"})], "Unknown file type 'Q'"),
        ([("a", {"type": b"M"})], "continued from another volume"),
        ([("a", {"uid": -5})], "Archive value -5 is out of uid_t range"),
        ([("a", hard_link("b"))], "Cannot hard link to 'b': No such file"),
        (
            [("a", {"pax_headers": {"SCHILY.xattr.user." + "x" * 300: "1"}})],
            "Cannot set 'user.x+",
        ),
        (
            [
                (
                    "a\nb\x1b[31m",
                    {"pax_headers": {f"SCHILY.xattr.user.{DEEP}": "1"}},
                )
            ],
            "extended attribute",
        ),
    ],
)
def test_archives_that_cannot_be_unpacked(
    tmp_path: Path,
    members: list[tuple[str, dict[str, Any]]],
    reason: str,
    shifted: bool,
) -> None:
    gnu = any("type" in fields or "uid" in fields for _, fields in members)
    archive = craft(
        tmp_path / "a.tar",
        *members,
        ("last", {}),
        tar_format=tarfile.GNU_FORMAT if gnu else tarfile.PAX_FORMAT,
    )
    found = refused(archive, tmp_path / "out", shifted=shifted)
    assert re.search(reason, found), found
    assert len(found) < 400


@both
def test_odd_members_that_are_unpacked(tmp_path: Path, shifted: bool) -> None:
    archive = craft(
        tmp_path / "a.tar",
        ("/", {**DIRECTORY, "mode": 0o700, "uid": 7, "gid": 8}),
        ("/etc/absolute", {}),
        ("././dots", {}),
        ("twice", {"data": b"1"}),
        ("twice", {"data": b"2"}),
        ("contiguous", {"type": tarfile.CONTTYPE}),
        ("old", {"type": tarfile.AREGTYPE}),
        ("future", {"mtime": 2**33}),
        ("past", {"mtime": -100}),
        ("known", {"pax_headers": {"LIBARCHIVE.creationtime": "1"}}),
        ("sealed", {**DIRECTORY, "mode": 0}),
        ("sealed/file", {}),
    )
    out = tmp_path / "out"
    report = unpack(archive, out, shifted=shifted)
    assert (report.inodes, report.skipped) == (12, 0)
    base = BASE if shifted else 0
    status = out.stat()
    assert (status.st_uid, status.st_gid) == (base + 7, base + 8)
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert (out / "twice").read_text() == "2"
    assert (out / "etc/absolute").read_text() == "data"
    assert (out / "past").stat().st_mtime == -100


# What could be done by a tar that takes archives at their word, too.
TRUSTING = "--absolute-names", "--keep-directory-symlink"


@both
@pytest.mark.parametrize("options", [(), TRUSTING], ids=["tar", "trusting"])
@pytest.mark.parametrize(
    "members",
    [
        [("p", link("/proc/self/fd")), ("p/0", {}), ("p/1", {})],
        [("p", link("/proc/self/root")), ("p{out}/new", {})],
        [("p", link("/proc/self/cwd")), ("p/../out/new", {})],
        [("p", link("/proc/1/root")), ("p{out}/new", {})],
        [("p", link("/proc/{pid}/root")), ("p{out}/new", {})],
        [("p", link("/proc/{pid}/cwd")), ("p/new", {})],
        [("p", link("/dev")), ("p/null", {}), ("p/new", {})],
        [("p", link("/dev/shm")), ("p/lxc-userns-new", {})],
        [("{out}/new", {}), ("{out}/canary", {})],
        [("../out/new", {}), ("../../out/new", {})],
        [("{out}", {**DIRECTORY, "mode": 0o700})],
        [("h", hard_link("{out}/canary")), ("h", {})],
        [("o", link("{out}")), ("o/new", {}), ("o/canary", {})],
        [("o", link("{out}")), ("o/fifo", {}), ("o/socket", {})],
        [("o", link("{out}")), ("o/null", {}), ("o", hard_link("o/canary"))],
        [("o", link("{out}")), ("o", {**DIRECTORY, "mode": 0o700})],
        [("o", link("{out}")), ("o/", {**DIRECTORY, "mode": 0o700})],
        [("o", link("{out}/canary")), ("o", {"uid": 5, "mode": 0o600})],
        [("o", link("{out}/canary")), ("h", hard_link("o")), ("h", {})],
        [("o", link("{out}")), ("h", hard_link("o/canary")), ("h", {})],
        [("a", DIRECTORY), ("a/o", link("{out}")), ("a/o/x", DEVICE)],
        [("o", link("{out}")), ("o/x/y/z", {})],
        [("o", link("{out}")), ("o/l", link("canary"))],
    ],
)
def test_nothing_outside_changes(
    tmp_path: Path,
    reachable_path: Path,
    members: list[Member],
    options: tuple[str, ...],
    shifted: bool,
) -> None:
    out = reachable_path / "out"
    make_target_of_all(out)
    before = seen(out)
    fields = {"out": out, "pid": os.getpid()}
    filled = [(n.format(**fields), fill(each, fields)) for n, each in members]
    archive = craft(tmp_path / "a.tar", *filled)
    archive.chmod(0o666)
    data = archive.read_bytes()
    target = (reachable_path if shifted else tmp_path) / "target"
    with tar_with(*options):
        try:
            unpack(archive, target, shifted=shifted)
        except RootfsError:
            assert not target.exists()
    assert seen(out) == before
    assert archive.read_bytes() == data
    assert stat.S_ISCHR(os.lstat("/dev/null").st_mode)
    for path in ("/dev/new", "/dev/shm/lxc-userns-new"):
        assert not os.path.lexists(path)


def seen(out: Path) -> tuple[golden.Snapshot, list[int]]:
    snapshot = golden.snapshot(out)
    return snapshot, golden.change_times(out, snapshot)


def fill(member: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    if "linkname" not in member:
        return member
    return {**member, "linkname": member["linkname"].format(**fields)}


def make_target_of_all(out: Path) -> None:
    """A directory where everybody may do everything."""
    out.mkdir()
    (out / "canary").write_text("host\n")
    os.mkfifo(out / "fifo")
    os.mknod(out / "null", stat.S_IFCHR, os.makedev(1, 3))
    for path in (out, *out.iterdir()):
        path.chmod(0o777)


def test_archives_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, reason in (
        (tmp_path / "fifo", "is not a tar archive"),
        (tmp_path, "is not a tar archive"),
        (Path("/dev/zero"), "is not a tar archive"),
        (tmp_path / "absent\n", "No such file"),
    ):
        assert not unpacking.is_archive(path)
        assert reason in refused(path, tmp_path / "out")
