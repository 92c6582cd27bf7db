# SPDX-License-Identifier: Apache-2.0
"""Root filesystems out of archives, good and hostile, by the command."""

import hashlib
import io
import os
import re
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.functional import images
from tests.functional.command_line import (
    BASE,
    PROGRAM,
    CommandLine,
    Result,
    run_on_a_terminal,
)
from tests.functional.conftest import FilesystemFactory
from tests.functional.rootfs import golden

pytestmark = pytest.mark.needs("mounts")

COMPRESSORS = {"tar": "", "gz": "--gzip", "xz": "--xz", "zst": "--zstd"}
FILESYSTEMS = ("ext4", "xfs", "btrfs", "tmpfs")
MAP = f"0:{BASE}:65536"


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The program, configured with ID maps."""
    return CommandLine.make(tmp_path, tmp_path / "run")


@pytest.fixture
def source(tmp_path: Path, busybox_rootfs: Path) -> Path:
    """A root filesystem with everything that an archive can carry."""
    (busybox_rootfs / "srv").mkdir()
    place = busybox_rootfs / "srv"
    place.chmod(0o3775)
    os.chown(place, 0, 5)
    tool = place / "tool"
    tool.write_text("x")
    tool.chmod(0o2755)
    os.setxattr(tool, "security.capability", golden.CAPS)
    secret = place / "secret"
    secret.write_text("x")
    os.chown(secret, 1000, 1000)
    subprocess.run(["setfacl", "-m", "u:1000:r,g:5:rw", secret], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", place], check=True)
    os.link(secret, place / "again")
    (place / "link").symlink_to("../nowhere")
    os.lchown(place / "link", 1000, 5)
    Path(os.fsdecode(os.fsencode(place) + b"/\xff\n\x01")).write_text("odd")
    (place / ("n" * 255)).write_text("long")
    os.mkfifo(place / "fifo")
    with (place / "sparse").open("wb") as stream:
        stream.seek(1 << 22)
        stream.write(b"end")
    for path in sorted(busybox_rootfs.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18 + 7), follow_symlinks=False)
    return busybox_rootfs


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("unpack_max_bytes = 1 MiB", "unpacks to more than 1 MiB; raise"),
        ("unpack_max_inodes = 20", "has more than 20 files; raise"),
    ],
)
def test_more_than_is_allowed(
    tmp_path: Path, source: Path, option: str, reason: str
) -> None:
    cli = CommandLine.make(tmp_path, tmp_path / "run", option)
    archive = pack(source, tmp_path / "a.tar")
    out = tmp_path / "out"
    done = cli("rootfs", "unpack", archive, out)
    assert done.code == 1
    assert f"{archive}: {reason}" in done.error()
    assert f"[lxc_userns] {option.partition(' ')[0]} if" in done.error()
    assert not out.exists()
    assert [*tmp_path.rglob(".unpacking*")] == []


def pack(source: Path, archive: Path, *options: str) -> Path:
    argv = ["tar", "--create", "--file", str(archive), "-C", str(source)]
    argv += ["--numeric-owner", "--acls", "--xattrs", "--sparse"]
    argv += ["--xattrs-include=*", "--format=posix", *options, "."]
    subprocess.run([each for each in argv if each], check=True, timeout=120)
    return archive


def look(tree: Path) -> dict[bytes, tuple[object, ...]]:
    """All of a tree but its change times and our notes."""
    found: dict[bytes, tuple[object, ...]] = {}
    for place, directories, files in os.walk(os.fsencode(tree)):
        for name in [b"", *directories, *files]:
            path = os.path.join(place, name)
            found[os.path.relpath(path, os.fsencode(tree))] = look_at(path)
    return found


def look_at(path: bytes) -> tuple[object, ...]:
    st = os.lstat(path)
    content: object = None
    if stat.S_ISREG(st.st_mode):
        with open(path, "rb") as stream:
            content = hashlib.sha256(stream.read()).hexdigest(), st.st_blocks
    elif stat.S_ISLNK(st.st_mode):
        content = os.readlink(path)
    names = os.listxattr(path, follow_symlinks=False)
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if not name.startswith(golden.OURS)
    }
    links = st.st_nlink if not stat.S_ISDIR(st.st_mode) else 0
    return (
        st.st_mode,
        st.st_uid,
        st.st_gid,
        links,
        st.st_mtime_ns,
        content,
        sorted(xattrs.items()),
    )


def plain(archive: Path, target: Path) -> Path:
    """Unpack it by GNU tar as the host's root."""
    target.mkdir()
    argv = ["tar", "-x", "-C", str(target), "--file", str(archive)]
    argv += ["--numeric-owner", "--same-owner", "-p", "--acls", "--xattrs"]
    subprocess.run([*argv, "--xattrs-include=*"], check=True, timeout=120)
    return target


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_every_form(
    cli: CommandLine, source: Path, tmp_path: Path, kind: str
) -> None:
    archive = pack(source, tmp_path / f"root.{kind}", COMPRESSORS[kind])
    target = tmp_path / "target"
    report = cli.json("rootfs", "unpack", archive, target)
    assert (report["inodes"], report["skipped"]) == (inodes(target), 0)
    assert (target / "srv/tool").stat().st_uid == BASE


def inodes(tree: Path) -> int:
    return len({path.lstat().st_ino for path in (tree, *tree.rglob("*"))})


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_it_is_as_plain_tar_makes_it(
    cli: CommandLine,
    source: Path,
    tmp_path: Path,
    loop_filesystem: FilesystemFactory,
    kind: str,
) -> None:
    archive = pack(source, tmp_path / "root.tar")
    place = loop_filesystem(kind)
    by_tar = plain(archive, place / "plain")
    assert (
        cli("rootfs", "unpack", archive, place / "u", "--unshifted").code == 0
    )
    assert look(place / "u") == look(by_tar)
    caps = os.getxattr(place / "u/srv/tool", "security.capability")
    assert caps == golden.CAPS  # Version 2, as in the archive.

    assert cli("rootfs", "unpack", archive, place / "shifted").code == 0
    assert cli("rootfs", "shift", by_tar).code == 0
    assert look(place / "shifted") == look(by_tar)
    verified = cli.json("rootfs", "verify", place / "shifted")
    assert (verified["wrong"], verified["unmapped"]) == (0, 0)
    again = cli.json("rootfs", "shift", place / "shifted")
    assert (again["shifted"], again["inodes"]) == (0, verified["inodes"])
    assert cli("rootfs", "unshift", place / "shifted").code == 0
    assert look(place / "shifted") == look(place / "u")


def test_maps_that_overlap(
    command_line: Callable[[str], CommandLine], source: Path, tmp_path: Path
) -> None:
    # Users of the host have some of these.
    cli = command_line("held_ids = allow\n")
    archive = pack(source, tmp_path / "root.tar")
    maps = ["--uid-map", "0:1000:65536", "--gid-map", "0:1000:65536"]
    target = tmp_path / "target"
    assert cli("rootfs", "unpack", archive, target, *maps).code == 0
    assert (target / "srv/secret").stat().st_uid == 2000
    assert cli.json("rootfs", "shift", target, *maps)["shifted"] == 0
    assert cli("rootfs", "unshift", target).code == 0
    assert look(target) == look(plain(archive, tmp_path / "plain"))


def test_a_debian_system(cli: CommandLine, tmp_path: Path) -> None:
    archive = images.make_debian("sysvinit")
    report = cli.json("rootfs", "unpack", archive, tmp_path / "debian")
    assert report["inodes"] > 5000
    assert report["skipped"] > 0  # Device nodes.
    su = (tmp_path / "debian/usr/bin/su").stat()
    assert (su.st_uid, stat.S_IMODE(su.st_mode)) == (BASE, 0o4755)
    assert cli("rootfs", "verify", tmp_path / "debian").code == 0


Member = tuple[str, dict[str, object]]


def craft(archive: Path, *members: Member) -> Path:
    """An archive of members that no honest program writes."""
    with tarfile.open(archive, "w") as stream:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            for key, value in fields.items():
                setattr(info, key, value)
            data = b"data" if info.isreg() else b""
            info.size = len(data)
            stream.addfile(info, io.BytesIO(data))
    return archive


LINK = {"type": tarfile.SYMTYPE}
HARD = {"type": tarfile.LNKTYPE}
DIRECTORY = {"type": tarfile.DIRTYPE, "mode": 0o755}


@pytest.mark.parametrize("unshifted", [[], ["--unshifted"]])
@pytest.mark.parametrize(
    "members",
    [
        [("{out}/new", {})],
        [("../out/new", {})],
        [("x/../../out/new", {})],
        [("link", {**LINK, "linkname": "{out}"}), ("link/new", {})],
        [("link", {**LINK, "linkname": "../out"}), ("link/new", {})],
        [("link", {**LINK, "linkname": "{out}/canary"}), ("link", {})],
        [("hard", {**HARD, "linkname": "{out}/canary"}), ("hard", {})],
        [("hard", {**HARD, "linkname": "../out/canary"}), ("hard", {})],
        [
            ("link", {**LINK, "linkname": "{out}"}),
            ("hard", {**HARD, "linkname": "link/canary"}),
            ("hard", {}),
        ],
        [
            ("a", DIRECTORY),
            ("a/b", {**LINK, "linkname": "../.."}),
            ("a/b/out/new", {}),
            ("a/b/out", {**DIRECTORY, "mode": 0o777}),
        ],
        [("link", {**LINK, "linkname": "/tmp"}), ("link/lxc-userns-new", {})],
    ],
)
def test_nothing_leads_out(
    cli: CommandLine,
    tmp_path: Path,
    reachable_path: Path,
    members: list[Member],
    unshifted: list[str],
) -> None:
    # Open to all, so that only the confinement can keep them out of it.
    out = reachable_path / "out"
    out.mkdir()
    (out / "canary").write_text("host\n")
    for path in (out, out / "canary"):
        path.chmod(0o777)
    before = look(out)
    place = tmp_path if unshifted else reachable_path
    filled = [
        (name.format(out=out), {
            key: value.format(out=out) if isinstance(value, str) else value
            for key, value in fields.items()
        })
        for name, fields in members
    ]  # fmt: skip
    archive = craft(tmp_path / "bad.tar", *filled)
    done = cli("rootfs", "unpack", archive, place / "target", *unshifted)
    assert done.code in (0, 1)
    if done.code:
        assert str(archive) in done.error()
        assert not (place / "target").exists()
    assert look(out) == before
    assert not Path("/tmp/lxc-userns-new").exists()
    assert list(place.glob(".unpacking*")) == []


def test_device_nodes_are_left_out(cli: CommandLine, tmp_path: Path) -> None:
    device = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}
    block = {"type": tarfile.BLKTYPE, "devmajor": 7, "devminor": 0}
    name = "x: Cannot mknod: Operation not permitted\ntar: y"
    archive = craft(
        tmp_path / "nodes.tar", ("null", device), (name, block), ("file", {})
    )
    for number, option in enumerate(([], ["--unshifted"])):
        target = tmp_path / str(number)
        report = cli.json("rootfs", "unpack", archive, target, *option)
        assert report == {
            "inodes": 2,
            "skipped": 2,
            "whiteouts": 0,
            "whiteout_files": 0,
        }
        assert [path.name for path in target.iterdir()] == ["file"]


def test_ids_outside_of_the_maps(cli: CommandLine, tmp_path: Path) -> None:
    archive = craft(
        tmp_path / "ids.tar",
        ("a", {"uid": 70000, "gid": 5}),
        ("b", {"uid": 5, "gid": 4294967294}),
    )
    target = tmp_path / "target"
    message = cli("rootfs", "unpack", archive, target).error()
    assert "user IDs 70000; group IDs 4294967294" in message
    assert not target.exists()


def test_an_archive_does_not_forge_our_notes(
    cli: CommandLine, source: Path, tmp_path: Path
) -> None:
    state = "trusted.lxc_userns.state"
    os.setxattr(source, state, b'{"version": 1}')
    archive = pack(source, tmp_path / "root.tar")
    target = tmp_path / "target"
    assert cli("rootfs", "unpack", archive, target, "--unshifted").code == 0
    assert state not in os.listxattr(target)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[: len(data) // 2], "root.tar"),
        # In the last member, before the zeros that end it and the archive.
        (lambda data: data.rstrip(b"\0")[:-1], "root.tar"),
        (lambda data: b"garbage" * 1000, "is not a tar archive"),
        (lambda _: b"", "is not a tar archive"),
    ],
)
def test_what_is_not_whole_leaves_nothing(
    cli: CommandLine,
    source: Path,
    tmp_path: Path,
    spoil: Callable[[bytes], bytes],
    reason: str,
) -> None:
    archive = pack(source, tmp_path / "root.tar")
    archive.write_bytes(spoil(archive.read_bytes()))
    target = tmp_path / "target"
    assert reason in cli("rootfs", "unpack", archive, target).error()
    assert not target.exists()
    assert list(tmp_path.glob(".unpacking*")) == []


def test_places_that_are_refused(
    cli: CommandLine, source: Path, tmp_path: Path, reachable_path: Path
) -> None:
    archive = pack(source, tmp_path / "root.tar")

    def unpack(path: Path, *options: str) -> Result:
        return cli("rootfs", "unpack", archive, path, *options)

    assert "is not empty" in unpack(source).error()
    assert "no directory" in unpack(archive).error()
    missing = tmp_path / "a/b"
    assert "No such file or directory" in unpack(missing).error()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert unpack(empty).code == 0
    assert (empty / "bin/su").exists()
    # Unshifted, its set-user-ID programs would be anybody's.
    message = unpack(reachable_path / "x", "--unshifted").error()
    assert f"chmod 0700 {reachable_path}" in message
    assert list(reachable_path.iterdir()) == []
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    message = cli("rootfs", "unpack", fifo, tmp_path / "y").error()
    assert "is not a tar archive" in message


def test_needs_maps_unless_unshifted(tmp_path: Path) -> None:
    config = tmp_path / "empty.conf"
    config.write_text("")
    cli = CommandLine(config, tmp_path, tmp_path)
    archive = craft(tmp_path / "a.tar", ("file", {"uid": 200000}))
    message = cli("rootfs", "unpack", archive, tmp_path / "x").error()
    assert "--uid-map, --gid-map" in message
    done = cli("rootfs", "unpack", archive, tmp_path / "x", "--unshifted")
    assert done.code == 0
    assert (tmp_path / "x/file").stat().st_uid == 200000


def test_progress_is_for_terminals(
    cli: CommandLine, source: Path, tmp_path: Path
) -> None:
    with (source / "large").open("wb") as stream:
        for _ in range(100):
            stream.write(os.urandom(1 << 20))
    archive = pack(source, tmp_path / "root.tar")
    argv = [str(PROGRAM), "--config-file", str(cli.config), "rootfs", "unpack"]
    argv += [str(archive), str(tmp_path / "target")]
    code, shown = run_on_a_terminal(argv, "stderr")
    assert code == 0
    # Parts of the archive, and not only at its beginning.
    assert len(set(re.findall(rb"unpack: +([0-9]+)%", shown))) > 2
    # To a pipe there is nothing but the report.
    assert cli.json("rootfs", "unpack", archive, tmp_path / "again")


def test_killed_in_the_middle(
    cli: CommandLine, source: Path, tmp_path: Path
) -> None:
    with (source / "large").open("wb") as stream:
        for _ in range(200):
            stream.write(os.urandom(1 << 20))
    archive = pack(source, tmp_path / "root.tar")
    target = tmp_path / "target"
    argv = [PROGRAM, "--config-file", cli.config, "rootfs", "unpack"]
    with subprocess.Popen(
        [*map(str, argv), str(archive), str(target)]
    ) as work:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".unpacking*/tree/bin")):
            assert time.monotonic() < deadline
            assert work.poll() is None
        work.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert list(tmp_path.glob(".unpacking*")) != []
    # Nothing goes on in its back, and the next one removes what is left.
    assert cli("rootfs", "unpack", archive, target).code == 0
    assert list(tmp_path.glob(".unpacking*")) == []
    assert cli("rootfs", "verify", target).code == 0
