# SPDX-License-Identifier: Apache-2.0
"""Archives, unpacked as tar and a shift would make them."""

import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import UnmappedIdsError
from lxc_userns.rootfs.archive import tar
from lxc_userns.rootfs.archive.limits import UnpackLimits
from tests import system_calls
from tests.functional.conftest import remove_tree
from tests.functional.rootfs import golden
from tests.functional.rootfs.archives import (
    BASE,
    COMPRESSORS,
    DEVICE,
    DIRECTORY,
    both,
    compress,
    craft,
    extract,
    hard_link,
    id_maps,
    link,
    pack,
    refused,
    unpack,
)

pytestmark = [
    pytest.mark.needs("mounts"),
    pytest.mark.usefixtures("no_holder_left"),
]

#: Covers the owners of golden trees that no usual map does.
WIDE = f"0:{BASE}:{golden.UNMAPPED + 1}"


def plain(seen: golden.Snapshot) -> golden.Snapshot:
    """Return a snapshot that is the same however it was unpacked."""
    return {
        path: replace(inode, number=(0, 0), rest=(inode.rest[:3], mtime))
        for path, inode in golden.without_notes(seen).items()
        if not (stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode))
        for mtime in inode.rest[-1:]
    }


@contextmanager
def golden_archive(source: Path, archive: Path) -> Iterator[Path]:
    source.mkdir(mode=0o755)
    golden.build(source)
    try:
        yield pack(source, archive, "--xattrs")
    finally:
        remove_tree(source)


def test_it_is_as_tar_and_shift_make_it(any_root: Path) -> None:
    any_root.chmod(0o700)
    with golden_archive(any_root / "source", any_root / "a.tar") as archive:
        by_tar = extract(archive, any_root / "by-tar")
    before = plain(golden.snapshot(by_tar))

    report = unpack(archive, any_root / "unshifted", shifted=False)
    assert report.skipped == 3
    unshifted = golden.snapshot(any_root / "unshifted")
    assert golden.notes(unshifted) == []
    assert plain(unshifted) == before
    assert report.inodes == len({i.number for i in unshifted.values()})

    maps = id_maps(WIDE)
    report = rootfs.unpack(archive, any_root / "shifted", maps)
    assert report.skipped == 3
    shifted = golden.snapshot(any_root / "shifted")
    rootfs.shift(by_tar, maps)
    assert plain(shifted) == plain(golden.snapshot(by_tar))
    assert report.inodes == len({i.number for i in shifted.values()})

    rootfs.unshift(any_root / "shifted")
    assert plain(golden.snapshot(any_root / "shifted")) == before


@pytest.mark.parametrize("text", [WIDE, f"0:1000:{golden.UNMAPPED + 1}"])
def test_it_says_what_it_is_shifted_for(root: Path, text: str) -> None:
    with golden_archive(root / "source", root / "a.tar") as archive:
        report = rootfs.unpack(archive, root / "out", id_maps(text))
    before = golden.snapshot(root / "out")
    assert golden.notes(before) == [(b"", golden.OURS + "state")]
    verified = rootfs.verify(root / "out", id_maps(text))
    assert (verified.ok, verified.inodes) == (True, report.inodes)
    with system_calls.never("os.listdir"):
        again = rootfs.shift(root / "out", id_maps(text))
    assert (again.inodes, again.shifted) == (report.inodes, 0)
    assert golden.snapshot(root / "out") == before


def acl(uid: int, gid: int) -> bytes:
    return golden.acl(
        (0x01, 7, golden.NO_ID),
        (0x02, 6, uid),
        (0x04, 5, golden.NO_ID),
        (0x08, 4, gid),
        (0x10, 7, golden.NO_ID),
        (0x20, 0, golden.NO_ID),
    )


TEXT_ACL = (
    "user::rwx,user:1000:rw-,group::r-x,group:5:r--,mask::rwx,other::---"
)


@both
@pytest.mark.parametrize(
    "options", [["--xattrs"], ["--acls"], ["--acls", "--xattrs"]]
)
def test_acls_in_each_form(
    tmp_path: Path, options: list[str], shifted: bool
) -> None:
    """GNU tar and others keep them as attributes, as text, or both."""
    source = tmp_path / "source"
    (source / "directory").mkdir(parents=True)
    (source / "directory/none").touch()
    (source / "file").touch()
    for name in ("file", "directory"):
        os.setxattr(source / name, golden.ACCESS, acl(1000, 5))
    os.setxattr(source / "directory", golden.DEFAULT, acl(1000, 5))
    archive = pack(source, tmp_path / "a.tar", *options)
    for each in (archive, compress(archive, "zst")):
        out = tmp_path / f"out{each.suffix}"
        unpack(each, out, shifted=shifted)
        base = BASE if shifted else 0
        expected = acl(base + 1000, base + 5)
        assert os.getxattr(out / "file", golden.ACCESS) == expected
        there = out / "directory"
        assert os.getxattr(there, golden.ACCESS) == expected
        assert os.getxattr(there, golden.DEFAULT) == expected
        assert stat.S_IMODE((out / "file").stat().st_mode) == 0o770
        # It has none, whatever the default is.
        assert os.listxattr(there / "none") == []
        assert stat.S_IMODE((there / "none").stat().st_mode) == 0o644


def text_acl(qualifier: str) -> dict[str, Any]:
    text = TEXT_ACL.replace("1000", qualifier)
    return {"mode": 0o770, "pax_headers": {"SCHILY.acl.access": text}}


def test_acls_as_text_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    archive = craft(tmp_path / "a.tar", ("file", text_acl("1000:extra")))
    assert "IDs in it" in refused(
        craft(tmp_path / "b.tar", ("file", text_acl("70000"))), out
    )
    assert "this host does not have" in refused(
        craft(tmp_path / "c.tar", ("file", text_acl("no-such-user"))), out
    )
    archive = craft(tmp_path / "a.tar", ("file", text_acl("1000")))
    assert unpack(archive, out).inodes == 2
    found = os.getxattr(out / "file", golden.ACCESS)
    assert found == acl(BASE + 1000, BASE + 5)


def test_acls_as_text_beside_a_file_about_acls(tmp_path: Path) -> None:
    """Our own program is one, which an image can well have."""
    content = Path(tar.__file__).read_bytes()
    archive = craft(
        tmp_path / "a.tar",
        ("file", text_acl("1000")),
        ("tar.py", {"data": content}),
    )
    unpack(archive, tmp_path / "out")
    found = os.getxattr(tmp_path / "out/file", golden.ACCESS)
    assert found == acl(BASE + 1000, BASE + 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (golden.ACCESS, acl(70000, 5)),
        (golden.CAPABILITY, golden.caps3(70000)),
    ],
)
def test_attributes_of_unmapped_ids(
    tmp_path: Path, name: str, value: bytes
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    os.setxattr(source / "file", name, value)
    archive = pack(source, tmp_path / "a.tar", "--xattrs")
    reason = refused(archive, tmp_path / "out")
    assert f"Cannot set '{name}'" in reason
    assert "do the ID maps cover the IDs in it?" in reason
    unpack(archive, tmp_path / "out", shifted=False)
    assert os.getxattr(tmp_path / "out/file", name) == value


@both
def test_attributes_that_are_the_hosts_own(
    tmp_path: Path, shifted: bool
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    for name in ("trusted.test", "security.test", "user.test"):
        os.setxattr(source / "file", name, b"value")
    archive = pack(source, tmp_path / "a.tar", "--xattrs")
    unpack(archive, tmp_path / "out", shifted=shifted)
    assert os.listxattr(tmp_path / "out/file") == ["user.test"]


@both
def test_nothing_comes_from_the_parent_or_the_process(
    tmp_path: Path, shifted: bool
) -> None:
    os.chown(tmp_path, 0, 5)
    tmp_path.chmod(0o2700)
    argv = ["setfacl", "-d", "-m", "u:1000:rwx", str(tmp_path)]
    subprocess.run(argv, check=True)
    archive = craft(
        tmp_path / "a.tar",
        ("missing/parent/file", {}),
        ("private", {**DIRECTORY, "mode": 0o700}),
    )
    before = os.umask(0o777)
    try:
        unpack(archive, tmp_path / "out", shifted=shifted)
    finally:
        os.umask(before)
    base = BASE if shifted else 0
    seen = golden.without_notes(golden.snapshot(tmp_path / "out"))
    assert {path: stat.S_IMODE(each.mode) for path, each in seen.items()} == {
        b"": 0o755,
        b"/missing": 0o755,
        b"/missing/parent": 0o755,
        b"/missing/parent/file": 0o644,
        b"/private": 0o700,
    }
    for inode in seen.values():
        assert (inode.uid, inode.gid, inode.xattrs) == (base, base, {})


def test_the_environment_has_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TAR_OPTIONS", "GZIP", "XZ_OPT", "XZ_DEFAULTS"):
        monkeypatch.setenv(name, "--bad-option")
    archive = craft(tmp_path / "a.tar", ("a/b", {}))
    for each in (archive, *(compress_bare(archive, s) for s in COMPRESSORS)):
        unpack(each, tmp_path / f"out{each.suffix}")
        assert (tmp_path / f"out{each.suffix}/a/b").read_text() == "data"


def compress_bare(archive: Path, suffix: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GZIP", "XZ_OPT", "XZ_DEFAULTS"):
            patch.delenv(name, raising=False)
        return compress(archive, suffix)


@both
def test_device_nodes_are_counted(tmp_path: Path, shifted: bool) -> None:
    names = ["a:b", "a\\b", "a\nb", "é", "'q'", "\\", "x y", "dev/null"]
    names += ["a': No such file or directory", "\a\b\f\r\t\v\1"]
    archive = craft(
        tmp_path / "a.tar",
        *((name, DEVICE) for name in names),
        ("block", {**DEVICE, "type": tarfile.BLKTYPE}),
        *((f"{name} too", hard_link(name)) for name in names),
        ("./again", hard_link("./dev/null")),
        ("and again", hard_link("again")),
        ("file", {}),
    )
    report = unpack(archive, tmp_path / "out", shifted=shifted)
    assert report.skipped == 2 * len(names) + 3
    # The directory that one of them would have been in.
    assert sorted(os.listdir(tmp_path / "out")) == ["dev", "file"]
    assert report.inodes == 3


@both
def test_whiteouts_are_made_and_counted(
    tmp_path: Path, shifted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """By both of the forms that layers of images have them in."""
    whiteout = {"type": tarfile.CHRTYPE, "mode": 0}
    long = "d" * 200 + "/"
    archive = craft(
        tmp_path / "a.tar",
        ("gone", whiteout),
        (".wh.gone too", {}),
        (f"{long}.wh..wh..opq", {"data": b""}),
        ("far", {**whiteout, "mtime": 2**33}),
        # These are none.
        ("file.wh.", {}),
        ("a .wh.name", {}),
        (".wh.directory/file", {}),
        ("link", link(f"{long}.wh.target")),
        ("hard", hard_link(f"{long}.wh..wh..opq")),
        ("x crw 0/0 0,0 ", {}),
        ("block 1: crw-r--r-- 0/0 0,0 2020-01-01 00:00 .wh.x", DIRECTORY),
        ("null", DEVICE),
    )
    report = unpack(archive, tmp_path / "out", shifted=shifted)
    found = report.whiteouts, report.whiteout_files, report.skipped
    assert found == (2, 2, 1)
    for name in ("gone", "far"):
        status = (tmp_path / "out" / name).lstat()
        assert (stat.S_IFMT(status.st_mode), status.st_rdev) == (
            stat.S_IFCHR,
            0,
        )
    assert (tmp_path / "out/.wh.gone too").read_text() == "data"
    assert "4 whiteouts, made like other files" in caplog.text


def test_one_block_of_zeros_is_an_end(tmp_path: Path, small: Path) -> None:
    """GNU tar takes it as one; none at all is a part of an archive."""
    data = small.read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % 512)
    for blocks, suffix in ((1, "zst"), (1, "gz"), (2, "xz")):
        archive = tmp_path / f"{blocks}.tar"
        archive.write_bytes(data + bytes(512 * blocks))
        for each in (archive, compress(archive, suffix)):
            out = tmp_path / f"out-{suffix}-{each.name}"
            assert unpack(each, out).inodes == 2
    archive.write_bytes(data)
    assert "is cut short" in refused(archive, tmp_path / "out")


@pytest.mark.parametrize("window", [28, 31])
def test_a_long_window(tmp_path: Path, small: Path, window: int) -> None:
    """zstd wants an option for it; the limit of memory is the archive's."""
    archive = tmp_path / "a.tar.zst"
    with archive.open("wb") as stream, small.open("rb") as source:
        # From a pipe, so that it does not know the size.
        piped = subprocess.Popen(["cat"], stdin=source, stdout=subprocess.PIPE)
        argv = ["zstd", "--quiet", f"--long={window}"]
        subprocess.run(argv, stdin=piped.stdout, stdout=stream, check=True)
        piped.communicate()
    if window == 28:
        assert unpack(archive, tmp_path / "out").inodes == 2
        return
    assert refused(archive, tmp_path / "out") == (
        "needs more than 1 GiB of memory to be unpacked; raise [lxc_userns] "
        "unpack_max_memory if it may"
    )
    limits = UnpackLimits(max_memory=3 << 30)
    assert unpack(archive, tmp_path / "out", limits=limits).inodes == 2


def test_owners_that_are_not_mapped(tmp_path: Path) -> None:
    archive = craft(
        tmp_path / "a.tar",
        ("a", {"uid": 70000, "gid": 5}),
        ("b: Cannot mknod: Operation not permitted", {"uid": 70001}),
        ("link", {**link("nowhere"), "gid": 2**32 - 2}),
        ("directory", {**DIRECTORY, "uid": 2**31 - 1}),
    )
    with pytest.raises(UnmappedIdsError) as caught:
        unpack(archive, tmp_path / "out")
    assert caught.value.path == str(archive)
    assert caught.value.uids == (70000, 70001, 2**31 - 1)
    assert caught.value.gids == (2**32 - 2,)
    reason = refused(archive, tmp_path / "out", shifted=False)
    assert reason == (
        f"owners above {2**31 - 2} cannot be unpacked: "
        f"{2**31 - 1}, {2**32 - 2}"
    )
    highest = craft(tmp_path / "b.tar", ("a", {"uid": 2**31 - 2}))
    unpack(highest, tmp_path / "out", shifted=False)
    assert os.stat(tmp_path / "out/a").st_uid == 2**31 - 2


def test_names_of_owners_mean_nothing(tmp_path: Path) -> None:
    owner = {"uid": 1234, "uname": "daemon", "gid": 4321, "gname": "root"}
    unpack(craft(tmp_path / "a.tar", ("a", owner)), tmp_path / "out")
    status = os.stat(tmp_path / "out/a")
    assert (status.st_uid, status.st_gid) == (BASE + 1234, BASE + 4321)


def test_progress(tmp_path: Path) -> None:
    archive = craft(tmp_path / "a.tar", ("a", {"data": os.urandom(1 << 22)}))
    for each in (archive, compress(archive, "gz")):
        seen: list[int] = []
        unpack(each, tmp_path / f"out{each.suffix}", progress=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == each.stat().st_size
