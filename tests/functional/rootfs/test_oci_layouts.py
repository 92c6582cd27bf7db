# SPDX-License-Identifier: Apache-2.0
"""Documents and blobs of OCI image layouts, good and hostile."""

import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lxc_userns.rootfs.archive import oci
from lxc_userns.rootfs.archive.limits import UnpackLimits
from tests.functional.rootfs.archives import compress, craft
from tests.functional.rootfs.oci_layouts import (
    INDEX,
    LAYER,
    MANIFEST,
    Layout,
    MakeLayout,
    names,
    refused,
    unpack,
)

pytestmark = pytest.mark.needs("mounts")

HERE = {"os": "linux", "architecture": oci._ARCHITECTURES.get(
    platform.machine(), platform.machine())}  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (UnpackLimits(max_bytes=150_000), "unpacks to more than"),
        (UnpackLimits(max_inodes=5), "has more than 5 files"),
    ],
)
def test_limits_are_for_all_layers(
    make_layout: MakeLayout, tmp_path: Path, limits: UnpackLimits, reason: str
) -> None:
    layers = [
        [(f"{layer}-{n}", {"data": bytes(30_000)}) for n in range(2)]
        for layer in range(3)
    ]
    layout = make_layout(*layers)
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


class TestChoice:
    """Choice of a layout's image."""

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
def test_bad_layouts(
    make_layout: MakeLayout, tmp_path: Path, reason: str
) -> None:
    layout = make_layout([("file", {})])
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
    make_layout: MakeLayout, tmp_path: Path, document: object, reason: str
) -> None:
    layout = make_layout([("file", {})])
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


def test_a_manifest_of_any_size(
    make_layout: MakeLayout, tmp_path: Path
) -> None:
    """It is not read to its end, which may take hours of a sparse file."""
    layout = make_layout([("file", {})])
    digest = "0" * 64
    with (layout / "blobs/sha256" / digest).open("wb") as stream:
        stream.truncate(1 << 33)
    image = {"mediaType": MANIFEST, "digest": f"sha256:{digest}"}
    document = {"manifests": [image | {"size": 1 << 33}]}
    (layout / "index.json").write_text(json.dumps(document))
    assert "is no JSON" in refused(layout, tmp_path / "out")


def test_documents_that_are_too_much(
    make_layout: MakeLayout, tmp_path: Path
) -> None:
    layout = make_layout([("file", {})])
    for text in ("[" * 100_000, " " * (5 << 20), "\xff"):
        (layout / "index.json").write_text(text, encoding="latin-1")
        assert "is no JSON" in refused(layout, tmp_path / "out")


@pytest.mark.parametrize("change", ["content", "size"])
@pytest.mark.parametrize("which", ["layer", "manifest"])
def test_blobs_are_what_is_stated(
    make_layout: MakeLayout, tmp_path: Path, change: str, which: str
) -> None:
    layout = make_layout([("file", {})])
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
