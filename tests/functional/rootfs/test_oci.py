# SPDX-License-Identifier: Apache-2.0
"""Layers of OCI images, good and hostile, and what is made of them."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from tests.functional.rootfs.archives import (
    BASE,
    DEVICE,
    DIRECTORY,
    Member,
    both,
    compress,
    craft,
    hard_link,
    id_maps,
    link,
)
from tests.functional.rootfs.oci_layouts import (
    WHITEOUT,
    Layout,
    MakeLayout,
    names,
    refused,
    unpack,
)

pytestmark = pytest.mark.needs("mounts")

ROOT: Member = ("./", DIRECTORY)


@both
def test_layers_and_whiteouts(
    make_layout: MakeLayout, tmp_path: Path, shifted: bool
) -> None:
    layout = make_layout(
        [
            ROOT,
            ("etc", DIRECTORY),
            ("etc/passwd", {"data": b"root"}),
            ("etc/gone", {"data": b"gone"}),
            ("var", {**DIRECTORY, "mode": 0o2775, "uid": 7}),
            ("var/old", DIRECTORY),
            ("var/old/deep", DIRECTORY),
            ("var/old/deep/file", {}),
            ("opt", DIRECTORY),
            ("opt/hidden", {}),
            ("opt/.dot", {}),
            ("opt/dir", DIRECTORY),
            ("opt/dir/file", {}),
            ("tmp", {**DIRECTORY, "mode": 0o1777}),
        ],
        [
            ("etc/.wh.gone", WHITEOUT),
            ("etc/.wh.never-there", WHITEOUT),
            ("var/.wh.old", WHITEOUT),
            # Hides what is below, not what is beside it, in either order.
            ("opt/before", {}),
            ("opt/.wh..wh..opq", WHITEOUT),
            ("opt/after", {}),
            ("etc/passwd", {"data": b"alice", "uid": 3, "mode": 0o4755}),
            # Made for a member, and there already.
            ("tmp/file", {}),
        ],
        # A name again that was hidden.
        [("etc/gone", {"data": b"new"}), ("etc/.wh..wh.plnk", WHITEOUT)],
    )
    out = tmp_path / "out"
    report = unpack(layout, out, shifted=shifted)
    assert names(out) == [
        *("etc", "etc/gone", "etc/passwd", "opt", "opt/after", "opt/before"),
        *("tmp", "tmp/file", "var"),
    ]
    assert report == rootfs.UnpackReport(10, 0, 0, 5)
    base = BASE if shifted else 0
    passwd = out / "etc/passwd"
    assert passwd.read_text() == "alice"
    assert (out / "etc/gone").read_text() == "new"
    status = passwd.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (
        base + 3,
        0o4755,
    )
    # Of a directory that another layer has something in nothing changes.
    assert stat.S_IMODE((out / "tmp").stat().st_mode) == 0o1777
    var = (out / "var").stat()
    assert (var.st_uid, stat.S_IMODE(var.st_mode)) == (base + 7, 0o2775)
    if shifted:
        assert rootfs.verify(out, id_maps()).ok


def test_one_kind_of_file_takes_the_place_of_another(
    make_layout: MakeLayout, tmp_path: Path
) -> None:
    layout = make_layout(
        [
            ("to-file", DIRECTORY),
            ("to-file/full", {}),
            ("to-directory", {}),
            ("usr/bin", DIRECTORY),
            ("usr/bin/kept", {}),
            ("bin", link("usr/bin")),
            ("sbin", link("usr/bin")),
            ("link-to-file", link("to-directory")),
        ],
        [
            ("to-file", {"data": b"file"}),
            ("to-directory", DIRECTORY),
            ("to-directory/file", {}),
            # An entry of its own takes the place of the link; without one,
            # the name leads through it.
            ("bin", DIRECTORY),
            ("bin/.wh..wh..opq", WHITEOUT),
            ("bin/tool", {}),
            ("sbin/daemon", {}),
            ("link-to-file", {"data": b"file"}),
        ],
    )
    out = tmp_path / "out"
    unpack(layout, out)
    assert (out / "to-file").read_text() == "file"
    assert (out / "to-directory").is_dir()
    assert names(out / "bin") == ["tool"]
    assert not (out / "bin").is_symlink()
    assert (out / "sbin").is_symlink()
    assert names(out / "usr/bin") == ["daemon", "kept"]
    assert not (out / "link-to-file").is_symlink()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that a container's root could write to."""
    path = tmp_path / "outside"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    (path / "victim").write_text("host")
    (path / "victim").chmod(0o666)
    for each in (path, path / "victim"):
        os.chown(each, BASE, BASE)
    return path


def snapshot(path: Path) -> list[tuple[str, int, str]]:
    return [
        (each.name, each.stat().st_ctime_ns, each.read_text())
        for each in sorted(path.iterdir())
    ]


@pytest.mark.parametrize("way", ["absolute", "relative", "chain", "root"])
@pytest.mark.parametrize(
    "members",
    [
        [("a/.wh.victim", WHITEOUT)],
        [("a/.wh..wh..opq", WHITEOUT)],
        [("./a//.wh.victim", WHITEOUT)],
        [("a/victim", {"data": b"evil"})],
        [("a/victim", DIRECTORY)],
        [("a/new", {"data": b"evil"})],
        [("a/victim", link("/"))],
        [("file", {}), ("a/victim", hard_link("file"))],
        [("mine", hard_link("a/victim"))],
    ],
    ids=str,
)
def test_no_link_of_a_layer_below_leads_out(
    make_layout: MakeLayout,
    tmp_path: Path,
    outside: Path,
    way: str,
    members: list[Member],
) -> None:
    steps = "../" * 30
    lower: list[Member] = {
        "absolute": [("a", link(outside))],
        "relative": [("a", link(f"{steps}{str(outside)[1:]}"))],
        "chain": [("b", link("/")), ("a", link(f"b/../{outside}"))],
        "root": [("a", link(f"/proc/1/root{outside}"))],
    }[way]
    before = snapshot(outside)
    layout = make_layout([ROOT, *lower], members)
    out = tmp_path / "out"
    try:
        unpack(layout, out)
    except RootfsError:
        assert not out.exists()
    assert snapshot(outside) == before


def test_a_link_within_the_tree_is_followed_as_the_container_would(
    make_layout: MakeLayout, tmp_path: Path
) -> None:
    layout = make_layout(
        [("run", DIRECTORY), ("run/lock", {}), ("var/run", link("/run"))],
        [("var/run/.wh.lock", WHITEOUT)],
    )
    unpack(layout, tmp_path / "out")
    assert names(tmp_path / "out/run") == []


@pytest.mark.parametrize(
    "name",
    [
        ".wh.",
        ".wh..",
        ".wh...",
        "a/.wh...",
        "../.wh.outside",
        "a/../../.wh.outside",
        ".wh.outside/../x",
        "/.wh.etc",
    ],
)
def test_odd_whiteouts(
    make_layout: MakeLayout, tmp_path: Path, outside: Path, name: str
) -> None:
    layout = make_layout(
        [("a/file", {}), ("etc/file", {})], [(name, WHITEOUT)]
    )
    before = snapshot(outside)
    out = tmp_path / "out"
    unpack(layout, out)
    kept = [] if name == "/.wh.etc" else ["etc", "etc/file"]
    assert names(out) == ["a", "a/file", *kept]
    assert snapshot(outside) == before


def test_names_that_are_hard_to_read(
    make_layout: MakeLayout, tmp_path: Path
) -> None:
    odd = (
        "new\nline",
        "back\\slash",
        "tab\t",
        " ",
        "\u00e9\u2028",
        "-rf",
        "*",
    )
    layout = make_layout(
        [(f"d/{name}", {}) for name in odd]
        + [(f"e/{name}/x", {}) for name in odd],
        [(f"d/.wh.{name}", WHITEOUT) for name in odd[1:]]
        + [(f"e/.wh.{name}", WHITEOUT) for name in odd[:-1]],
    )
    out = tmp_path / "out"
    assert unpack(layout, out).whiteout_files == 12
    assert os.listdir(out / "d") == ["new\nline"]
    assert os.listdir(out / "e") == ["*"]


def test_deep_and_many(make_layout: MakeLayout, tmp_path: Path) -> None:
    deep = "d/" * 1000
    layout = make_layout(
        [(f"{deep}file", {}), *((f"m/{n}", {}) for n in range(500))],
        [(".wh.d", WHITEOUT), *((f"m/.wh.{n}", WHITEOUT) for n in range(499))],
    )
    out = tmp_path / "out"
    unpack(layout, out)
    assert names(out) == ["m", "m/499"]


def test_forms_of_layers(tmp_path: Path) -> None:
    archives = [
        craft(tmp_path / f"{n}.tar", (f"file{n}", {"data": bytes(100_000)}))
        for n in range(3)
    ]
    archives[0] = compress(archives[0], "gz")
    archives[1] = compress(archives[1], "zst")
    layout = Layout(tmp_path / "layout")
    layout.finish(layout.add_image(archives))
    seen: list[int] = []
    unpack(layout.path, tmp_path / "out", progress=seen.append)
    assert names(tmp_path / "out") == ["file0", "file1", "file2"]
    assert seen == sorted(seen)
    assert seen[-1] <= sum(each.stat().st_size for each in archives)


def test_devices_are_left_out(make_layout: MakeLayout, tmp_path: Path) -> None:
    layout = make_layout(
        [("null", DEVICE)], [("dev/null", DEVICE), ("file", {})]
    )
    assert unpack(layout, tmp_path / "out").skipped == 2
    assert names(tmp_path / "out") == ["dev", "file"]


@pytest.mark.parametrize("user", ["4242", "root"])
def test_acls_as_text(tmp_path: Path, user: str) -> None:
    # Some releases of tar give a number where there is a name, some do not.
    acl = f"user::rw-\nuser:{user}:r--\ngroup::r--\nmask::r--\nother::r--\n"
    headers = {"pax_headers": {"SCHILY.acl.access": acl}}
    archives = [
        craft(tmp_path / "0.tar", ("file", headers)),
        craft(tmp_path / "1.tar", ("other", {}), (".wh.gone", WHITEOUT)),
    ]
    layout = Layout(tmp_path / "layout")
    layout.finish(layout.add_image(archives))
    if user == "root":
        # By a name, which the host's users are not asked for.
        said = refused(layout.path, tmp_path / "out", shifted=False)
        assert "does it name a user or group" in said
        return
    unpack(layout.path, tmp_path / "out", shifted=False)
    shown = subprocess.check_output(
        ["getfacl", "-cn", tmp_path / "out/file"], text=True
    )
    assert "user:4242:r--" in shown


@both
@pytest.mark.parametrize("size", [1024, 10_240])
def test_a_layer_without_files(
    tmp_path: Path, size: int, shifted: bool
) -> None:
    """Layers that BuildKit makes of WORKDIR, say, with no compression."""
    empty = tmp_path / "empty.tar"
    empty.write_bytes(bytes(size))
    file = craft(tmp_path / "0.tar", ("file", {}))
    layout = Layout(tmp_path / "layout")
    layout.finish(layout.add_image([empty, file, empty]))
    unpack(layout.path, tmp_path / "out", shifted=shifted)
    assert names(tmp_path / "out") == ["file"]


def test_what_umoci_makes(tmp_path: Path) -> None:
    """Layers of another maker: its tree and ours are the same."""
    image = f"{tmp_path}/layout:it"

    def umoci(*arguments: str) -> None:
        subprocess.run(
            ["umoci", *arguments], check=True, capture_output=True, timeout=60
        )

    umoci("init", "--layout", f"{tmp_path}/layout")
    umoci("new", "--image", image)
    for step in range(3):
        bundle = tmp_path / f"bundle{step}"
        umoci("unpack", "--image", image, str(bundle))
        change(bundle / "rootfs", step)
        umoci("repack", "--refresh-bundle", "--image", image, str(bundle))
    last = tmp_path / "last"
    umoci("unpack", "--image", image, str(last))
    out = tmp_path / "out"
    report = unpack(tmp_path / "layout", out)
    assert report.whiteout_files > 0
    assert describe(out, BASE) == describe(last / "rootfs", 0)


def change(tree: Path, step: int) -> None:
    """Change a tree in many ways."""
    if step == 0:
        for name in ("etc", "var/cache/apt", "usr/bin", "opt/app"):
            (tree / name).mkdir(parents=True)
            for n in range(4):
                (tree / name / f"f{n}").write_text(f"{name} {n}")
        (tree / "bin").symlink_to("usr/bin")
        (tree / "usr/bin/su").write_text("su")
        (tree / "usr/bin/su").chmod(0o4755)
        os.chown(tree / "etc/f1", 1000, 5)
        os.link(tree / "etc/f2", tree / "etc/f2-again")
        (tree / "tmp").mkdir()
        (tree / "tmp").chmod(0o1777)
    elif step == 1:
        shutil.rmtree(tree / "var/cache")
        (tree / "etc/f0").unlink()
        (tree / "etc/f3").unlink()
        (tree / "etc/f3").mkdir()
        shutil.rmtree(tree / "opt/app")
        (tree / "opt/app").write_text("a file now")
        (tree / "usr/bin").chmod(0o711)
    else:
        (tree / "etc/f0").symlink_to("f1")
        (tree / "opt/app").unlink()
        (tree / "bin").unlink()
        (tree / "bin").mkdir()
        (tree / "bin/sh").write_text("sh")
        os.link(tree / "etc/f1", tree / "etc/f1-again")


def describe(tree: Path, base: int) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in tree.rglob("*"):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_text()
        found[str(path.relative_to(tree))] = (
            status.st_mode,
            status.st_uid - base,
            status.st_gid - base,
            status.st_nlink if not path.is_dir() else None,
            content,
        )
    return found
