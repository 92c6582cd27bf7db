# SPDX-License-Identifier: Apache-2.0
"""Archives and diagnostics of tar, without running it."""

import bz2
import errno
import gzip
import io
import json
import lzma
import marshal
import os
import struct
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.exceptions import ArgumentError, RootfsError
from lxc_userns.rootfs.archive import formats, sandbox, unpack
from lxc_userns.rootfs.archive import tar as extraction
from lxc_userns.rootfs.archive.outcome import Outcome
from lxc_userns.rootfs.archive.tar_errors import TarDiagnostics

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PIECES = st.lists(st.integers(1, 40), max_size=20)


def make_tar(
    name: str = "name", tar_format: int = tarfile.PAX_FORMAT
) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=tar_format, encoding="utf-8"
    ) as tar:
        tar.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def program(data: bytes) -> str | None:
    argv = formats.find_decompressor(data[: formats.LENGTH])
    return None if argv is None else " ".join(argv[:1])


@pytest.mark.parametrize("tar_format", FORMATS)
def test_plain_archives(tar_format: int) -> None:
    for name in ("name", "é" * 40, "n" * 90):
        data = make_tar(name, tar_format)
        assert program(data) == ""
        assert program(data[:511]) is None


def with_checksum(head: bytes, total: int) -> bytes:
    return head[:148] + b"%06o\0 " % total + head[156:]


def test_headers_without_a_magic_string() -> None:
    head = make_tar()[:512]
    head = head[:257] + bytes(255)
    assert program(head) is None
    blank = head[:148] + b" " * 8 + head[156:]
    assert program(with_checksum(head, sum(blank))) == ""
    assert program(with_checksum(head, sum(blank) + 1)) is None


def test_checksums_of_signed_bytes() -> None:
    head = b"\xff" * 100 + make_tar()[100:512]
    blank = head[:148] + b" " * 8 + head[156:]
    signed = sum(byte - 256 * (byte > 127) for byte in blank)
    assert program(with_checksum(head, signed)) == ""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (gzip.compress(make_tar(), mtime=0), "gzip"),
        (lzma.compress(make_tar()), "xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "zstd"),
        (b"\x50\x2a\x4d\x18\4\0\0\0", "zstd"),
        (b"\x5f\x2a\x4d\x18\4\0\0\0", "zstd"),
        (b"\x60\x2a\x4d\x18\4\0\0\0", None),
        (bz2.compress(make_tar()), None),
        (b"", None),
        (b"\x1f", None),
        (bytes(512), None),  # As a disk image may begin.
        (b"garbage" * 100, None),
        (b"PK\3\4" + bytes(600), None),
    ],
)
def test_what_decompresses(data: bytes, expected: str | None) -> None:
    assert program(data) == expected


@given(st.binary(max_size=600))
def test_anything_can_be_looked_at(data: bytes) -> None:
    assert program(data) in (None, "", "gzip", "xz", "zstd")


@pytest.mark.parametrize("checksum", [b"4_00", b"0o400", b"+400", b" \t400"])
def test_a_checksum_is_octal_digits(checksum: bytes) -> None:
    header = bytearray(formats.LENGTH)
    header[148:156] = checksum.ljust(8, b"\0")
    assert formats.find_decompressor(bytes(header)) is None


def test_what_is_an_archive(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert not unpack.is_archive(file)
    assert not unpack.is_archive(tmp_path)
    file.write_bytes(b"text")
    assert not unpack.is_archive(file)
    file.write_bytes(make_tar())
    assert unpack.is_archive(str(file))


def test_a_shift_needs_id_maps(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="unpack: id_maps None: is needed"):
        unpack.unpack(tmp_path / "archive", tmp_path / "path", None)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_without_an_end(end: bytes) -> None:
    """The reason for which it was killed says more."""
    complaints = hear(b"tar: ./file: Cannot wri" + end)
    assert complaints.first == "tar: ./file: Cannot wri"
    assert complaints.is_cut is (not end)


def hear(said: bytes, pieces: list[int] | None = None) -> TarDiagnostics:
    complaints = TarDiagnostics()
    for size in pieces or [len(said) + 1]:
        if said[:size]:
            complaints.feed(said[:size])
        said = said[size:]
    if said:
        complaints.feed(said)
    complaints.feed(b"")
    return complaints


PASSED_OVER = b"""\
tar: Removing leading `/' from member names
tar: Removing leading `../' from hard link targets
tar: Substituting `.' for empty member name
tar: Exiting with failure status due to previous errors
"""
DEVICES = b"""\
tar: dev/null: Cannot mknod: Operation not permitted
tar: a\\:b\\\\: Cannot mknod: Operation not permitted
tar: dev/zero: Cannot hard link to 'dev/null': No such file or directory
tar: ./it's\\:\\303\\251\\n: Cannot mknod: Operation not permitted
tar: b c: Cannot hard link to 'it\\'s:\\303\\251\\n': No such file or directory
"""
OWNERS = b"""\
tar: a: Cannot change ownership to uid 70000, gid 5: Invalid argument
tar: \\:\\n: Cannot change ownership to uid 0, gid 4294967294: Invalid argument
"""


@given(PIECES)
def test_what_is_counted(pieces: list[int]) -> None:
    heard = hear(PASSED_OVER + DEVICES + OWNERS, pieces)
    assert heard.devices == 5
    assert heard.owners == {(70000, 5), (0, 4294967294)}
    assert heard.first is None


@pytest.mark.parametrize(
    "line",
    [
        "tar: Unexpected EOF in archive",
        "tar: a: Cannot open: File exists",
        "tar: a: Cannot mknod: No space left on device",
        "tar: a: Cannot mkfifo: Operation not permitted",
        "tar: a: Cannot change ownership to uid 0, gid 0: Permission denied",
        "tar: a: Cannot hard link to 'b': No such file or directory",
        "tar: a: Cannot hard link to 'dev/null': Permission denied",
        "tar: a: Cannot hard link to 'b': x': No such file or directory",
        "tar: a/..: Member name contains '..'",
        "xz: (stdin): Unexpected end of input",
        "gzip: dev/null: Cannot mknod: Operation not permitted",
        " tar: dev/null: Cannot mknod: Operation not permitted",
        "Traceback (most recent call last):",
    ],
)
def test_everything_else_is_wrong(line: str) -> None:
    said = DEVICES + line.encode() + b"\ntar: something: else\n"
    assert hear(said).first == line.strip()
    # Also if the last line has no end.
    assert hear(DEVICES + line.encode()).first == line.strip()


@given(st.text(max_size=50), st.sampled_from((DEVICES, OWNERS, PASSED_OVER)))
def test_a_name_that_is_not_escaped_hides_nothing(
    name: str, lines: bytes
) -> None:
    """GNU tar escapes no names in this message, line breaks included."""
    before = b"tar: setxattrat: Cannot set 'user.a' extended attribute for "
    after = b"': Operation not supported\n"
    for inner in (b"", lines, lines.removeprefix(b"tar: "), lines[:-1]):
        hostile = name.encode(errors="replace") + inner
        heard = hear(before + b"file '" + hostile + after)
        assert heard.first is not None


def test_a_number_that_is_no_owner() -> None:
    line = f"tar: a: Cannot change ownership to uid {'9' * 5000}, gid 1"
    complaints = hear(f"{line}: Invalid argument\n".encode())
    assert complaints.first is not None
    assert complaints.owners == set()


def test_a_message_is_short_and_printable() -> None:
    said = b"tar: " + b"a\x1b[31m\xff" * 10000 + b": Cannot open: Reason\n"
    first = hear(said, [4096] * 100).first
    assert first is not None
    assert first.isprintable()
    assert len(first) < 400
    assert first.startswith("tar: a\\x1b[31m\\xff")
    assert first.endswith(": Cannot open: Reason")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (
            "tar: setxattrat: Cannot set 'system.posix_acl_default' extended "
            "attribute for file 'a': Invalid argument",
            "do the ID maps cover",
        ),
        (
            "tar: setxattrat: Cannot set 'security.capability' extended "
            "attribute for file 'a': Invalid argument",
            "do the ID maps cover",
        ),
        (
            "tar: acl_set_file_at: Cannot set POSIX ACLs for file 'a': "
            "Invalid argument",
            "do the ID maps cover",
        ),
        (
            "tar: a: Warning: Cannot acl_from_text: Invalid argument",
            "that this host does not have",
        ),
        (
            "tar: a: Warning: Cannot acl_from_text: Cannot allocate memory",
            "that this host does not have",
        ),
    ],
)
def test_hints(line: str, hint: str) -> None:
    first = hear(line.encode() + b"\n").first
    assert first is not None
    assert first.startswith(line)
    assert hint in first
    other = f"{line.rpartition(': ')[0]}: Read-only file system"
    assert hear(other.encode()).first == other


def test_a_full_filesystem() -> None:
    line = "tar: a: Wrote only 63488 of 65536 bytes"
    assert hear(line.encode()).first == f"{line} (is the filesystem full?)"


@pytest.mark.parametrize(
    "line",
    [
        "tar: memory exhausted",
        "gzip: memory exhausted",
        "xz: (stdin): Cannot allocate memory",
        "xz: (stdin): Memory usage limit reached",
        "zstd: error 11 : Allocation error : not enough memory",
    ],
)
def test_a_lack_of_memory(line: str) -> None:
    heard = hear(line.encode() + b"\n")
    assert (heard.first, heard.lacks_memory) == (line, True)
    assert not hear(b"tar: a: " + line.encode() + b"\n").lacks_memory
    # What comes first counts.
    heard = hear(b"tar: Unexpected EOF\n" + line.encode())
    assert not heard.lacks_memory


@pytest.mark.parametrize(
    ("printed", "is_end"),
    [
        (b"\nblock 7: ** Block of NULs **\n", True),
        (b"x\nblock 71: ** Block of NULs **\n", True),
        (b"\nblock 7: ** Block of NULs **\nblock 8: x\n", False),
        (b"\nblock 7: -rw- 0/0 0 x: ** Block of NULs **\n", False),
        (b"block 7: ** Block of NULs **\n", False),
        (b"\n", False),
    ],
)
def test_what_tells_that_an_archive_has_an_end(
    printed: bytes, is_end: bool
) -> None:
    assert bool(extraction._END.search(printed)) == is_end


def test_few_of_many_owners_are_kept() -> None:
    line = (
        b"tar: a: Cannot change ownership to uid %d, gid 0: Invalid argument"
    )
    said = b"\n".join(line % number for number in range(70000, 71000))
    assert 0 < len(hear(said).owners) < 1000


@given(st.binary(max_size=40), st.binary(max_size=40), PIECES)
def test_strings_are_found_wherever_the_stream_is_cut(
    before: bytes, after: bytes, pieces: list[int]
) -> None:
    strings = [b" SCHILY.acl.", b"other"]
    for data, expected in (
        (before + strings[0] + after, {strings[0]}),
        (before + strings[0][:-1] + b"!" + after, set()),
    ):
        watch = sandbox.Watch(strings)
        rest = data
        for size in [*pieces, len(data)]:
            piece, rest = rest[:size], rest[size:]
            watch.room[: len(piece)] = piece
            watch.look(len(piece))
        assert watch.found >= expected
        assert watch.found <= {each for each in strings if each in data}


def receive(said: bytes, size: int | None = None) -> Outcome:
    with open(os.memfd_create("result"), "w+b", buffering=0) as message:
        message.write(struct.pack("<Q", len(said) if size is None else size))
        message.write(said)
        message.seek(0)
        return extraction._receive(message.fileno(), "a.tar")


@pytest.mark.parametrize(
    "said",
    [
        # Not even loaded: what marshal does with made-up bytes is undefined.
        marshal.dumps({"tar": 0, "decompressor": 0, "found": []}),
        b"",
        b"[]",
        b"{}",
        b"[" * 50000,
        b"\xff",
        b'{"tar": %s}' % (b"9" * 5000),
        b'{"error": {"bytes": "\\u0100"}}',
    ],
)
def test_a_result_that_is_none(said: bytes) -> None:
    with pytest.raises(RootfsError, match="what is no result"):
        receive(said)


RESULT = {
    "tar": 0,
    "decompressor": 0,
    "read": 4096,
    "members": 8,
    "printed": {"bytes": "\nblock 7: ** Block of NULs **\n"},
    "whiteouts": 1,
    "whiteout_files": 2,
    "found": [{"bytes": " SCHILY.acl."}],
    "exceeded": None,
}


def test_a_result() -> None:
    result = receive(json.dumps(RESULT).encode())
    printed = b"\nblock 7: ** Block of NULs **\n"
    assert result == Outcome(
        0, 0, 4096, 8, printed, 1, 2, [b" SCHILY.acl."], None
    )


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("tar", ["0", None, [], {}, 0.0, True, 256, -128, {"bytes": "0"}]),
        ("decompressor", ["0", None, [0], {}, 1e999, False, 10**400]),
        ("read", ["0", None, [0], {}, True, -1, 1 << 63]),
        ("members", ["0", None, [0], {}, True, -1, 1 << 63]),
        ("whiteouts", ["0", None, [0], {}, True, -1, 1 << 63]),
        ("whiteout_files", ["0", None, [0], {}, True, -1, 1 << 63]),
        ("printed", ["\n", None, 0, [], {}, {"bytes": "x" * 100_000}]),
        (
            "found",
            [
                " SCHILY.acl.",
                None,
                {"bytes": " SCHILY.acl."},
                [" SCHILY.acl."],
                [0],
                [[]],
                [{}],
                [{"bytes": "else"}],
            ],
        ),
        ("exceeded", ["else", "", 1, True, [], {}, {"bytes": "bytes"}]),
        (
            "error",
            [
                None,
                "text",
                {},
                [],
                [1],
                ["1", "text"],
                [True, "text"],
                [0, "text"],
                [10**9, "text"],
                [[], "text"],
                [{}, "text"],
                [1, 2],
                [1, None],
                [1, ["text"]],
                [1, {"bytes": "text"}],
                [1, "two\nlines"],
                [1, "\x1b[31m"],
                [1, "\ud800"],
                [1, "text" * 10_000],
                [1, "text", 2],
            ],
        ),
    ],
)
def test_values_that_are_of_no_result(key: str, values: list[object]) -> None:
    for value in values:
        said = {"error": value} if key == "error" else RESULT | {key: value}
        with pytest.raises(RootfsError, match="what is no result") as caught:
            receive(json.dumps(said).encode())
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("key", RESULT)
def test_values_that_are_missing(key: str) -> None:
    said = {name: value for name, value in RESULT.items() if name != key}
    with pytest.raises(RootfsError, match="what is no result"):
        receive(json.dumps(said).encode())


def test_a_failure() -> None:
    with pytest.raises(RootfsError, match="cannot be unpacked: No space"):
        receive(b'{"error": [5, "No space"]}')
    with pytest.raises(RootfsError, match="cannot be unpacked: too long"):
        receive(b'{"error": [null, "too long"]}')
    with pytest.raises(RootfsError, match=r"Linux 5\.12"):
        receive(json.dumps({"error": [errno.ENOSYS, "text"]}).encode())


def test_a_program_that_was_not_started_has_failed(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(make_tar())
    result = receive(json.dumps(RESULT | {"decompressor": 1}).encode())
    with (
        formats.opened(str(file)) as opened,
        pytest.raises(RootfsError, match="nothing failed with exit code 1"),
    ):
        extraction._check(result, opened, TarDiagnostics())


def test_a_result_is_no_order_for_memory() -> None:
    with pytest.raises(RootfsError, match="what is no result"):
        receive(b"{}", 1 << 60)


def test_a_process_that_died() -> None:
    with pytest.raises(RootfsError, match="has died"):
        receive(b"{}", 3)
