# SPDX-License-Identifier: Apache-2.0
"""Volumes: files of the host in a container, beside its root filesystem."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, get_args

from lxc_userns.arguments import as_text, check_type
from lxc_userns.exceptions import VolumeError

Owners = Literal["idmap", "none", "chown", "host"]

#: What each option sets, and to what.
_OPTIONS: Final[Mapping[str, tuple[str, Any]]] = {
    "idmap": ("owners", "idmap"),
    "none": ("owners", "none"),
    "chown": ("owners", "chown"),
    "host": ("owners", "host"),
    "ro": ("readonly", True),
    "rw": ("readonly", False),
    "suid": ("nosuid", False),
    "dev": ("nodev", False),
    "owned": ("owned", True),
    "image": ("image", True),
}
_PATH: Final = r"((?:[^\\:]|\\[\\:])*)"
_FORM: Final = re.compile(rf"{_PATH}:{_PATH}(?::([^:]*))?", re.DOTALL)
_SYNTAX: Final = (
    r"expected SOURCE:TARGET or SOURCE:TARGET:OPTION,..., with \: for a colon "
    r"in a path and \\ for a backslash"
)
#: Fields that are truth values.
_FLAGS: Final = ("readonly", "nosuid", "nodev", "owned", "image")
#: Those that what was written before does not have.
_NEWER: Final = {"owned", "image"}
# Controls, what some take for the end of a line, and what os.fsdecode() makes
# of bytes that are no text: neither a log nor XML can carry them.
_UNFIT: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]"
)


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory, file or socket of the host that a container sees.

    Paths are absolute, without empty, ``.`` and ``..`` parts, and are text
    on one line. What libvirt mounts on itself cannot be a target either; the
    domain that it becomes part of says so.

    :param source: path on the host, without links; all directories above it
        are root's, and no one else may write to them.
    :param target: path in the container, not ``/``.
    :param owners: ``idmap``: the container sees owners on disk as guest IDs,
        and nothing changes there; ``none``: as they are, so that what belongs
        to no mapped ID is nobody's; ``chown``: shifted on disk, for this
        instance alone; ``host``: as they are, with the container's root
        being the host's, for which it has to be in mode ``host``.
    :param readonly: whether it cannot be written to.
    :param nosuid: whether set-ID bits and file capabilities do not count.
    :param nodev: whether device nodes cannot be opened.
    :param owned: whether directories above the source may be other users'.
        Who they are can give the container another file instead the first
        time; later ones are told by their identity.
    :param image: whether the source is a raw disk image, of which the
        container sees the filesystem: alone, unless it is read-only. It goes
        with ``idmap`` and ``none``, and without device nodes.
    :raises VolumeError: for any other value.
    """

    source: str
    target: str
    owners: Owners = "idmap"
    readonly: bool = False
    nosuid: bool = True
    nodev: bool = True
    owned: bool = False
    image: bool = False

    def __post_init__(self) -> None:
        _check_path("source", self.source)
        _check_path("target", self.target)
        if self.target == "/":
            raise VolumeError("/", "target is that of the root filesystem")
        known = get_args(Owners)
        if self.owners not in known:
            reason = f"owners are not one of {', '.join(known)}"
            raise VolumeError(as_text(self.owners), reason)
        for name in _FLAGS:
            value = getattr(self, name)
            if type(value) is not bool:
                raise VolumeError(as_text(value), f"{name} is no truth value")
        if self.image and self.owners not in ("idmap", "none"):
            reason = f"an image cannot be {self.owners}; give idmap or none"
            raise VolumeError(self.source, reason)
        if self.image and not self.nodev:
            reason = "an image has no device nodes; leave out dev"
            raise VolumeError(self.source, reason)

    @classmethod
    def parse(cls, text: str) -> Volume:
        r"""Read ``SOURCE:TARGET`` or ``SOURCE:TARGET:OPTION,...``.

        Options are ``idmap``, which is the default, ``none``, ``chown`` and
        ``host``; ``rw``, which is the default, and ``ro``; ``suid``; ``dev``;
        ``owned``; ``image``. In a path, ``\:`` is a colon and ``\\`` a
        backslash.

        :raises VolumeError: for anything else, and for options that are
            repeated or contradict each other.
        """
        check_type("Volume.parse", "text", text, str)
        match = _FORM.fullmatch(text)
        if match is None:
            raise VolumeError(text, _SYNTAX)
        source, target = (re.sub(r"\\(.)", r"\1", match[n]) for n in (1, 2))
        options = match[3]
        values = {} if options is None else _parse_options(text, options)
        return cls(source, target, **values)

    def __str__(self) -> str:
        options: list[str] = [self.owners]
        if self.readonly:
            options.append("ro")
        if not self.nosuid:
            options.append("suid")
        if not self.nodev:
            options.append("dev")
        if self.owned:
            options.append("owned")
        if self.image:
            options.append("image")
        paths = (
            re.sub(r"[\\:]", r"\\\g<0>", path)
            for path in (self.source, self.target)
        )
        return ":".join((*paths, ",".join(options)))

    def to_dict(self) -> dict[str, str | bool]:
        """Return the same as plain values, by field."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Volume:
        """Read what :meth:`to_dict` gave, or did in older versions.

        :raises VolumeError: for anything else.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(data, dict) or {*_NEWER, *data.keys()} != names:
            reason = f"the fields are not {', '.join(sorted(names))}"
            raise VolumeError(as_text(data), reason)
        return cls(**data)


def _parse_options(text: str, options: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    said: dict[str, str] = {}
    for option in options.split(","):
        if option not in _OPTIONS:
            reason = f"option {option!r} is not one of {', '.join(_OPTIONS)}"
            raise VolumeError(text, reason)
        name, value = _OPTIONS[option]
        if said.get(name) == option:
            raise VolumeError(text, f"option {option} is repeated")
        if name in said:
            reason = f"options {said[name]} and {option} contradict each other"
            raise VolumeError(text, reason)
        said[name] = option
        values[name] = value
    return values


def _check_path(what: str, path: str) -> None:
    if not isinstance(path, str):
        raise VolumeError(as_text(path), f"{what} is no text")
    if not path.startswith("/"):
        raise VolumeError(path, f"{what} is not an absolute path")
    if path != "/" and {"", ".", ".."} & set(path.split("/")[1:]):
        reason = f"{what} has an empty, '.' or '..' part, or ends with a slash"
        raise VolumeError(path, reason)
    if _UNFIT.search(path):
        reason = f"{what} has a control character, or bytes that are no text"
        raise VolumeError(path, reason)
