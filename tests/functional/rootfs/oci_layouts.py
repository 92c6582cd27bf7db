# SPDX-License-Identifier: Apache-2.0
"""OCI image layouts of any kind, and what becomes of them."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from tests.functional.rootfs.archives import holder_of, id_maps

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST, INDEX = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)
TYPES = {"": LAYER, "gz": f"{LAYER}+gzip", "zst": f"{LAYER}+zstd"}
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


MakeLayout = Callable[..., Path]


def unpack(
    layout: Path, path: Path, *, shifted: bool = True, **options: Any
) -> rootfs.UnpackReport:
    maps = id_maps() if shifted else None
    return rootfs.unpack_oci(layout, path, maps, shifted=shifted, **options)


def refused(layout: Path, path: Path, **options: Any) -> str:
    """Return why it is refused; nothing is left of it."""
    with pytest.raises(RootfsError) as caught:
        unpack(layout, path, **options)
    assert not os.path.lexists(path)
    assert not holder_of(path).exists()
    assert str(caught.value).isprintable()
    return str(caught.value)


def names(tree: Path) -> list[str]:
    return sorted(str(each.relative_to(tree)) for each in tree.rglob("*"))
