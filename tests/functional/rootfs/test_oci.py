# SPDX-License-Identifier: Apache-2.0
"""OCI image layouts, good and hostile."""

import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.archive import oci
from lxc_userns.rootfs.archive.limits import UnpackLimits
from tests.functional.rootfs.archives import (
    BASE,
    DEVICE,
    DIRECTORY,
    Member,
    both,
    compress,
    craft,
    hard_link,
    holder_of,
    id_maps,
    link,
)

pytestmark = pytest.mark.needs("mounts")

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST, INDEX = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)
TYPES = {"": LAYER, "gz": f"{LAYER}+gzip", "zst": f"{LAYER}+zstd"}
HERE = {"os": "linux", "architecture": oci._ARCHITECTURES.get(
    platform.machine(), platform.machine())}  # fmt: skip
ROOT: Member = ("./", DIRECTORY)
#: Members without content.
WHITEOUT = {"data": b""}


class Layout:
    """An OCI image layout that is being made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        self.write("oci-layout", {"imageLayoutVersion": "1.0.0"})

    def write(self, name: str, document: object) -> None:
        (self.path / name).write_text(json.dumps(document))

    def add(self, content: bytes, media_type: str, **more: Any) -> Any:
        """Add a blob; return its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        self.blob(digest).write_bytes(content)
        named = {"mediaType": media_type, "digest": f"sha256:{digest}"}
        return {**named, "size": len(content), **more}

    def blob(self, digest: str) -> Path:
        return self.path / "blobs/sha256" / digest.removeprefix("sha256:")

    def add_json(self, document: object, media_type: str, **more: Any) -> Any:
        return self.add(json.dumps(document).encode(), media_type, **more)

    def add_image(self, archives: Sequence[Path], **more: Any) -> Any:
        """Add an image of some layers; return its descriptor."""
        layers = [
            self.add(
                each.read_bytes(),
                TYPES[each.suffix.removeprefix(".").replace("tar", "")],
            )
            for each in archives
        ]
        manifest = {
            "schemaVersion": 2,
            "config": self.add_json({"os": "linux"}, "application/json"),
            "layers": layers,
        }
        return self.add_json(manifest, MANIFEST, **more)

    def finish(self, *images: Any) -> Path:
        self.write("index.json", {"schemaVersion": 2, "manifests": images})
        return self.path


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a layout of one image, with layers of these members."""

    def image(*layers: Sequence[Member]) -> Path:
        archives = [
            craft(tmp_path / f"{number}.tar", *members)
            for number, members in enumerate(layers)
        ]
        layout = Layout(tmp_path / "layout")
        return layout.finish(layout.add_image(archives))

    return image


def unpack(
    layout: Path, path: Path, *, shifted: bool = True, **options: Any
) -> rootfs.UnpackReport:
    maps = id_maps() if shifted else None
    return rootfs.unpack_oci(layout, path, maps, shifted=shifted, **options)


def refused(layout: Path, path: Path, **options: Any) -> str:
    """Why it is refused; nothing is left of it."""
    with pytest.raises(RootfsError) as caught:
        unpack(layout, path, **options)
    assert not os.path.lexists(path)
    assert not holder_of(path).exists()
    assert str(caught.value).isprintable()
    return str(caught.value)


def names(tree: Path) -> list[str]:
    return sorted(str(each.relative_to(tree)) for each in tree.rglob("*"))


@both
def test_layers_and_whiteouts(
    make: Make, tmp_path: Path, shifted: bool
) -> None:
    layout = make(
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
    make: Make, tmp_path: Path
) -> None:
    layout = make(
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
    make: Make, tmp_path: Path, outside: Path, way: str, members: list[Member]
) -> None:
    steps = "../" * 30
    lower: list[Member] = {
        "absolute": [("a", link(outside))],
        "relative": [("a", link(f"{steps}{str(outside)[1:]}"))],
        "chain": [("b", link("/")), ("a", link(f"b/../{outside}"))],
        "root": [("a", link(f"/proc/1/root{outside}"))],
    }[way]
    before = snapshot(outside)
    layout = make([ROOT, *lower], members)
    out = tmp_path / "out"
    try:
        unpack(layout, out)
    except RootfsError:
        assert not out.exists()
    assert snapshot(outside) == before


def test_a_link_within_the_tree_is_followed_as_the_container_would(
    make: Make, tmp_path: Path
) -> None:
    layout = make(
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
    make: Make, tmp_path: Path, outside: Path, name: str
) -> None:
    layout = make([("a/file", {}), ("etc/file", {})], [(name, WHITEOUT)])
    before = snapshot(outside)
    out = tmp_path / "out"
    unpack(layout, out)
    kept = [] if name == "/.wh.etc" else ["etc", "etc/file"]
    assert names(out) == ["a", "a/file", *kept]
    assert snapshot(outside) == before


def test_names_that_are_hard_to_read(make: Make, tmp_path: Path) -> None:
    odd = (
        "new\nline",
        "back\\slash",
        "tab\t",
        " ",
        "\u00e9\u2028",
        "-rf",
        "*",
    )
    layout = make(
        [(f"d/{name}", {}) for name in odd]
        + [(f"e/{name}/x", {}) for name in odd],
        [(f"d/.wh.{name}", WHITEOUT) for name in odd[1:]]
        + [(f"e/.wh.{name}", WHITEOUT) for name in odd[:-1]],
    )
    out = tmp_path / "out"
    assert unpack(layout, out).whiteout_files == 12
    assert os.listdir(out / "d") == ["new\nline"]
    assert os.listdir(out / "e") == ["*"]


def test_deep_and_many(make: Make, tmp_path: Path) -> None:
    deep = "d/" * 1000
    layout = make(
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


def test_devices_are_left_out(make: Make, tmp_path: Path) -> None:
    layout = make([("null", DEVICE)], [("dev/null", DEVICE), ("file", {})])
    assert unpack(layout, tmp_path / "out").skipped == 2
    assert names(tmp_path / "out") == ["dev", "file"]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (UnpackLimits(max_bytes=150_000), "unpacks to more than"),
        (UnpackLimits(max_inodes=5), "has more than 5 files"),
    ],
)
def test_limits_are_for_all_layers(
    make: Make, tmp_path: Path, limits: UnpackLimits, reason: str
) -> None:
    layers = [
        [(f"{layer}-{n}", {"data": bytes(30_000)}) for n in range(2)]
        for layer in range(3)
    ]
    layout = make(*layers)
    assert reason in refused(layout, tmp_path / "out", limits=limits)
    enough = UnpackLimits(max_bytes=300_000, max_inodes=6)
    assert unpack(layout, tmp_path / "out", limits=enough).inodes == 7
    shutil.rmtree(tmp_path / "out")


def test_what_is_too_large_is_not_read_first(tmp_path: Path) -> None:
    """Blobs can be sparse, and one can be a layer many times."""
    layout = Layout(tmp_path / "layout")
    layer = layout.add(bytes(1 << 20), LAYER)
    layout.blob(layer["digest"]).write_bytes(b"x" * (1 << 20))
    layout.finish(layout.add_json({"layers": [layer] * 9}, MANIFEST))
    limits = UnpackLimits(max_bytes=8 << 20)
    said = refused(layout.path, tmp_path / "out", limits=limits)
    assert "unpacks to more than 8 MiB; raise" in said
    said = refused(layout.path, tmp_path / "out")
    assert "has another sha256" in said


def test_limits_count_while_it_is_listed(tmp_path: Path) -> None:
    """A small blob can be large before anything of it is written."""
    bomb = tmp_path / "bomb.tar"
    with bomb.open("wb") as stream:
        stream.truncate(1 << 30)
    craft(tmp_path / "0.tar", ("file", {}))
    head = craft(tmp_path / "head.tar", ("big", {"data": bytes(1 << 20)}))
    with bomb.open("r+b") as stream:
        stream.write(head.read_bytes()[:1536])
    layout = Layout(tmp_path / "layout")
    layers = [tmp_path / "0.tar", compress(bomb, "zst")]
    layout.finish(layout.add_image(layers))
    said = refused(layout.path, tmp_path / "out",
                   limits=UnpackLimits(max_bytes=500_000))  # fmt: skip
    assert "unpacks to more than" in said


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


class TestChoice:
    """Which image of a layout it is."""

    @pytest.fixture
    def layout(self, tmp_path: Path) -> Layout:
        return Layout(tmp_path / "layout")

    @pytest.fixture
    def archives(self, tmp_path: Path) -> list[Path]:
        return [craft(tmp_path / f"{n}.tar", (str(n), {})) for n in range(3)]

    def test_that_for_this_machine(
        self, layout: Layout, archives: list[Path], tmp_path: Path
    ) -> None:
        other = {"os": "linux", "architecture": "pdp11"}
        images = [
            layout.add_image(archives[:1], platform=other),
            layout.add_image(archives[1:2], platform=HERE),
        ]
        inner = {"schemaVersion": 2, "manifests": images}
        layout.finish(layout.add_json(inner, INDEX))
        unpack(layout.path, tmp_path / "out")
        assert names(tmp_path / "out") == ["1"]

    def test_several(
        self, layout: Layout, archives: list[Path], tmp_path: Path
    ) -> None:
        images = [
            layout.add_image(
                archives[n : n + 1],
                annotations={"org.opencontainers.image.ref.name": f"v{n}\n"},
            )
            for n in range(2)
        ]
        layout.finish(*images)
        said = refused(layout.path, tmp_path / "out")
        assert "has several images: v0\\n, v1\\n; copy the one" in said

    def test_an_index_that_names_itself_by_others(
        self, layout: Layout, archives: list[Path], tmp_path: Path
    ) -> None:
        found = layout.add_image(archives)
        for _ in range(9):
            found = layout.add_json({"manifests": [found]}, INDEX)
        layout.finish(found)
        said = refused(layout.path, tmp_path / "out")
        assert "has more than 4 indexes in a row" in said


def replace_index(layout: Path, make_other: Callable[[Path], object]) -> None:
    (layout / "index.json").unlink()
    make_other(layout / "index.json")


BAD: dict[str, Callable[[Path], object]] = {
    "is not a regular file": lambda path: replace_index(path, os.mkfifo),
    "is a symbolic link": lambda path: replace_index(
        path, lambda index: index.symlink_to("/etc/passwd")
    ),
    "is no JSON document": lambda path: (path / "index.json").write_text("["),
    "No such file": lambda path: (path / "oci-layout").unlink(),
    "names no version": lambda path: (path / "oci-layout").write_text(
        '{"imageLayoutVersion": "2.0"}'
    ),
    "other users may write": lambda path: (path / "blobs").chmod(0o777),
    "belongs to user 1000": lambda path: os.chown(path / "blobs", 1000, 0),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_layouts(make: Make, tmp_path: Path, reason: str) -> None:
    layout = make([("file", {})])
    BAD[reason](layout)
    assert reason in refused(layout, tmp_path / "out")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "has no list of manifests"),
        ({"manifests": {}}, "has no list of manifests"),
        ({"manifests": []}, "has no image for this machine"),
        ({"manifests": [1]}, "a descriptor is not valid"),
        ({"manifests": [{"mediaType": MANIFEST, "size": 1,
                         "digest": "sha256:../../../etc/passwd"}]},
         "a descriptor is not valid"),
        ({"manifests": [{"mediaType": MANIFEST, "size": -1,
                         "digest": "sha256:" + "0" * 64}]},
         "a descriptor is not valid"),
        ({"manifests": [{"mediaType": MANIFEST, "size": 1,
                         "digest": "sha256:" + "0" * 64}]}, "No such file"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_indexes(
    make: Make, tmp_path: Path, document: object, reason: str
) -> None:
    layout = make([("file", {})])
    (layout / "index.json").write_text(json.dumps(document))
    assert reason in refused(layout, tmp_path / "out")


@pytest.mark.parametrize("text", ["\ud800\x1b[31m", "x" * 100_000])
def test_texts_of_a_document_in_messages(tmp_path: Path, text: str) -> None:
    layout = Layout(tmp_path / "layout")
    layer = layout.add(b"", text)
    layout.finish(layout.add_json({"layers": [layer]}, MANIFEST))
    found = [refused(layout.path, tmp_path / "out")]
    note = {"org.opencontainers.image.ref.name": text}
    image = layout.add_json({}, MANIFEST, annotations=note)
    layout.finish(image, image)
    found.append(refused(layout.path, tmp_path / "out"))
    assert "has a layer of type" in found[0]
    assert "has several images" in found[1]
    for each in found:
        assert "locale" not in each
        assert len(each) < 1000


def test_a_manifest_of_any_size(make: Make, tmp_path: Path) -> None:
    """It is not read to its end, which may take hours of a sparse file."""
    layout = make([("file", {})])
    digest = "0" * 64
    with (layout / "blobs/sha256" / digest).open("wb") as stream:
        stream.truncate(1 << 33)
    image = {"mediaType": MANIFEST, "digest": f"sha256:{digest}"}
    document = {"manifests": [image | {"size": 1 << 33}]}
    (layout / "index.json").write_text(json.dumps(document))
    assert "is no JSON" in refused(layout, tmp_path / "out")


def test_documents_that_are_too_much(make: Make, tmp_path: Path) -> None:
    layout = make([("file", {})])
    for text in ("[" * 100_000, " " * (5 << 20), "\xff"):
        (layout / "index.json").write_text(text, encoding="latin-1")
        assert "is no JSON" in refused(layout, tmp_path / "out")


@pytest.mark.parametrize("change", ["content", "size"])
@pytest.mark.parametrize("which", ["layer", "manifest"])
def test_blobs_are_what_is_stated(
    make: Make, tmp_path: Path, change: str, which: str
) -> None:
    layout = make([("file", {})])
    blobs = sorted(
        (layout / "blobs/sha256").iterdir(), key=lambda x: x.stat().st_size
    )
    blob = blobs[-1] if which == "layer" else blobs[-2]
    content = blob.read_bytes()
    blob.write_bytes(
        content[:-1] + b"~" if change == "content" else content + b" "
    )
    said = refused(layout, tmp_path / "out")
    assert blob.name in said
    assert ("has another sha256" if change == "content" else "has not") in said


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([], "has 0 layers"),
        ([{}] * 1, "a descriptor is not valid"),
        (None, "has no list of layers"),
        ("encrypted", "has a layer of type"),
        ("text", "is not a tar archive"),
        ("many", "has 513 layers"),
    ],
)
def test_bad_manifests(tmp_path: Path, layers: Any, reason: str) -> None:
    layout = Layout(tmp_path / "layout")
    if isinstance(layers, str):
        kind = f"{LAYER}+gzip+encrypted" if layers == "encrypted" else LAYER
        number = 513 if layers == "many" else 1
        layers = [layout.add(b"text", kind)] * number
    manifest = layout.add_json({"layers": layers}, MANIFEST)
    layout.finish(manifest)
    assert reason in refused(layout.path, tmp_path / "out")


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
