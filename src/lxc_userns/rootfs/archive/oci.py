# SPDX-License-Identifier: Apache-2.0
"""Images in a directory, as the OCI image specification lays them out.

See image-layout.md, image-index.md, manifest.md and descriptor.md there.
Whoever made it may be hostile, but for the directories that it is in.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lxc_userns.exceptions import RootfsError, translated
from lxc_userns.linux.fd import owned
from lxc_userns.linux.safe_path import ROOT_ONLY, Trust
from lxc_userns.rootfs.archive import formats
from lxc_userns.rootfs.archive.formats import Archive
from lxc_userns.rootfs.archive.limits import UnpackLimits
from lxc_userns.text import printable, shorten

#: Bytes of a document; the most that registries take.
_LONGEST = 4 << 20
#: An index may name others; layers, as many as engines take and some more.
_MOST_INDEXES = 4
_MOST_LAYERS = 512
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LAYER = re.compile(
    r"application/vnd\.oci\.image\.layer(\.nondistributable)?\.v1"
    r"\.tar(\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs(\.foreign)?\.diff\.tar(\.gzip)?"
)
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_AGAIN = "get the image again"
_NO_DOCUMENT = "is no JSON document of an image"
_REF = "org.opencontainers.image.ref.name"
#: Names of architectures as Go has them (GOARCH), by those of the kernel.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "386",
    "armv7l": "arm",
    "loongarch64": "loong64",
}


@contextmanager
def opened(
    path: str | os.PathLike[str],
    limits: UnpackLimits,
    trust: Trust = ROOT_ONLY,
) -> Iterator[list[Archive]]:
    """Open the layers of the image in a layout.

    Each blob has the size and the digest that are stated of it.

    :param path: the directory.
    :param limits: what unpacking them may take.
    :param trust: rules for the directories above its files.
    :returns: its layers, the lowest first.
    :raises RootfsError: if it is no layout, has not just one image for this
        machine, one that cannot be read, or others could replace it.
    """
    given = os.fspath(path)
    layout = _Layout(os.path.abspath(given), printable(given), trust)
    with ExitStack() as stack:
        yield [
            stack.enter_context(layout.opened(each))
            for each in layout.find_layers(limits)
        ]


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """Descriptor of a blob.

    :param media_type: its type.
    :param digest: algorithm and digest.
    :param size: its bytes.
    :param machine: operating system and architecture that it is for.
    :param ref: its name in the layout.
    """

    media_type: str
    digest: str
    size: int
    machine: tuple[str, str] | None
    ref: str | None

    @classmethod
    def parse(cls, data: dict[str, Any]) -> _Descriptor:
        """Read one.

        :raises ValueError: if it is none.
        """
        match data:
            case {
                "mediaType": str(media_type),
                "digest": str(digest),
                "size": int(size),
            } if _DIGEST.fullmatch(digest) and size >= 0:
                machine = None
                match data.get("platform"):
                    case {"os": str(system), "architecture": str(kind)}:
                        machine = system, kind
                notes = data.get("annotations") or {}
                ref = notes.get(_REF) if isinstance(notes, dict) else None
                return cls(media_type, digest, size, machine, ref)
        raise ValueError("a descriptor is not valid")


@dataclass(frozen=True, slots=True)
class _Layout:
    """A layout.

    :param path: absolute path of its directory.
    :param shown: the path for messages.
    :param trust: rules for the directories above its files.
    """

    path: str
    shown: str
    trust: Trust

    def find_layers(self, limits: UnpackLimits) -> list[_Descriptor]:
        """Return the layers of its image."""
        match self._read("oci-layout"):
            case {"imageLayoutVersion": str(version)} if (
                version.split(".")[0] == "1"
            ):
                pass
            case _:
                raise self._error("oci-layout names no version that is known")
        index = self._read("index.json")
        for _ in range(_MOST_INDEXES):
            chosen = self._choose(self._descriptors(index, "manifests"))
            document = self._read_blob(chosen)
            if chosen.media_type in _MANIFESTS:
                return self._layers(document, limits)
            index = document
        raise self._error(f"has more than {_MOST_INDEXES} indexes in a row")

    def _choose(self, found: list[_Descriptor]) -> _Descriptor:
        """Choose the one image, or index of images, for this machine."""
        known = [
            each
            for each in found
            if each.media_type in (*_MANIFESTS, *_INDEXES)
        ]
        if len(known) > 1:
            here = platform.machine()
            machine = "linux", _ARCHITECTURES.get(here, here)
            known = [each for each in known if each.machine in (machine, None)]
        if not known:
            raise self._error("has no image for this machine")
        if len(known) > 1:
            refs = ", ".join(_shown(str(each.ref)) for each in known[:9])
            raise self._error(
                f"has several images: {refs}; copy the one that is meant to a "
                "layout of its own, as by skopeo copy oci:DIR:NAME oci:NEW"
            )
        return known[0]

    def _layers(
        self, manifest: dict[str, Any], limits: UnpackLimits
    ) -> list[_Descriptor]:
        layers = self._descriptors(manifest, "layers")
        if not 0 < len(layers) <= _MOST_LAYERS:
            raise self._error(
                f"its image has {len(layers)} layers; expected 1 to "
                f"{_MOST_LAYERS}"
            )
        for each in layers:
            if not _LAYER.fullmatch(each.media_type):
                kind = _shown(each.media_type)
                raise self._error(f"has a layer of type {kind}, not of tar")
        # All of them is read for their digests.
        if sum(each.size for each in layers) > limits.max_bytes:
            raise self._error(limits.bytes_exceeded)
        return layers

    def _descriptors(
        self, document: dict[str, Any], name: str
    ) -> list[_Descriptor]:
        found = document.get(name)
        try:
            if isinstance(found, list):
                return [_Descriptor.parse(each) for each in found]
        except ValueError as err:
            raise self._error(f"{name}: {err}") from err
        raise self._error(f"has no list of {name}")

    @contextmanager
    def opened(self, layer: _Descriptor) -> Iterator[Archive]:
        """Open the archive of a layer."""
        with self._blob(layer) as (fd, shown):
            if formats.is_end(os.pread(fd, formats.LENGTH, 0)):
                yield Archive(shown, fd, ())  # A layer without files.
            else:
                yield Archive(shown, fd, formats.decompressor_of(fd, shown))

    @contextmanager
    def _blob(self, blob: _Descriptor) -> Iterator[tuple[int, str]]:
        """Open a blob, and see that it is the one that is meant."""
        algorithm, _, digest = blob.digest.partition(":")
        name = f"blobs/{algorithm}/{digest}"
        shown = f"{self.shown}/{name}"
        with self._file(name) as fd:
            if os.fstat(fd).st_size != blob.size:
                raise RootfsError(
                    shown, f"has not {blob.size} bytes; {_AGAIN}"
                )
            with open(fd, "rb", closefd=False) as stream:
                found = hashlib.file_digest(stream, algorithm).hexdigest()
            if found != digest:
                raise RootfsError(
                    shown, f"has another {algorithm}, {found}; {_AGAIN}"
                )
            os.lseek(fd, 0, os.SEEK_SET)
            yield fd, shown

    def _read_blob(self, blob: _Descriptor) -> dict[str, Any]:
        if blob.size > _LONGEST:  # All of it would be read for its digest.
            raise self._error(f"{blob.digest} {_NO_DOCUMENT}")
        with self._blob(blob) as (fd, shown):
            return self._parse(fd, shown)

    def _read(self, name: str) -> dict[str, Any]:
        with self._file(name) as fd:
            return self._parse(fd, f"{self.shown}/{name}")

    @contextmanager
    def _file(self, name: str) -> Iterator[int]:
        path = f"{self.path}/{name}"
        with translated(RootfsError, f"{self.shown}/{name}"):
            fd = formats.open_regular(path, self.trust)
        if fd is None:
            raise RootfsError(
                f"{self.shown}/{name}", f"is not a regular file; {_AGAIN}"
            )
        with owned(fd):
            yield fd

    def _parse(self, fd: int, shown: str) -> dict[str, Any]:
        with open(fd, "rb", closefd=False) as stream:
            text = stream.read(_LONGEST + 1)
        try:
            if len(text) <= _LONGEST:
                document = json.loads(text)
                if isinstance(document, dict):
                    return document
        except (ValueError, RecursionError):
            pass
        raise RootfsError(shown, _NO_DOCUMENT)

    def _error(self, reason: str) -> RootfsError:
        return RootfsError(self.shown, reason)


def _shown(text: str) -> str:
    """Make text of a document, which may have lone surrogates, printable."""
    raw = shorten(text).encode(errors="backslashreplace")
    return printable(raw.decode())
