# SPDX-License-Identifier: Apache-2.0
"""Archives as honest programs write them and as no honest one does."""

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.archive import staging

BASE = 100000

Member = tuple[str, dict[str, Any]]

DIRECTORY = {"type": tarfile.DIRTYPE, "mode": 0o755}
DEVICE = {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}
COMPRESSORS = {"gz": "gzip", "xz": "xz", "zst": "zstd"}


def link(target: str | Path) -> dict[str, Any]:
    return {"type": tarfile.SYMTYPE, "linkname": str(target)}


def hard_link(target: str | Path) -> dict[str, Any]:
    return {"type": tarfile.LNKTYPE, "linkname": str(target)}


def craft(
    archive: Path, *members: Member, tar_format: int = tarfile.PAX_FORMAT
) -> Path:
    """Write an archive of members with just these fields."""
    with tarfile.open(archive, "w", format=tar_format) as stream:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            data = fields.get("data", b"data")
            for key, value in fields.items():
                if key != "data":
                    setattr(info, key, value)
            if not info.isreg():
                data = b""
            info.size = len(data)
            stream.addfile(info, io.BytesIO(data))
    return archive


def pack(source: Path, archive: Path, *options: str) -> Path:
    """Let GNU tar write an archive of a tree."""
    argv = ["tar", "--create", "--format=posix", "--numeric-owner", "--sparse"]
    # It tells of sockets that it leaves out.
    argv += ["--warning=no-file-ignored", "--file", str(archive), *options]
    subprocess.run([*argv, "-C", source, "."], check=True, timeout=120)
    return archive


def compress(archive: Path, suffix: str) -> Path:
    argv = [COMPRESSORS[suffix], "--keep", "--quiet", "--force", str(archive)]
    subprocess.run(argv, check=True, timeout=120)
    return archive.with_name(f"{archive.name}.{suffix}")


def extract(archive: Path, target: Path) -> Path:
    """Let GNU tar unpack it, as the host's root."""
    target.mkdir(mode=0o755)
    argv = ["tar", "--extract", "--numeric-owner", "--preserve-permissions"]
    argv += ["--xattrs", "--xattrs-include=*", "--file", str(archive)]
    subprocess.run([*argv, "-C", target], check=True, timeout=120)
    return target


both = pytest.mark.parametrize("shifted", [True, False])


def id_maps(text: str = f"0:{BASE}:65536") -> IdMaps:
    return IdMaps(IdMap.parse(text), IdMap.parse(text))


def unpack(
    archive: Path, path: Path, *, shifted: bool = True, **options: Any
) -> rootfs.UnpackReport:
    maps = id_maps() if shifted else None
    return rootfs.unpack(archive, path, maps, shifted=shifted, **options)


def refused(archive: Path, path: Path, **options: Any) -> str:
    """Return why it is refused; nothing is left of it."""
    with pytest.raises(RootfsError) as caught:
        unpack(archive, path, **options)
    assert not os.path.lexists(path)
    assert str(caught.value).isprintable()
    return caught.value.reason


def holder_of(path: Path) -> Path:
    return path.with_name(staging._staging_name(path.name))
