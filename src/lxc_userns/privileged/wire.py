# SPDX-License-Identifier: Apache-2.0
"""Plain values of dataclasses, for the way to another process and back.

Each is read by the annotations of its class, so that there is no second list
of fields. Whoever has sent it is not trusted: a field that is missing, unknown
or of another type is refused, and the class checks the rest.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import (
    Any,
    Final,
    Literal,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from lxc_userns.arguments import check_type, refuse
from lxc_userns.exceptions import LxcUsernsError
from lxc_userns.idmap import IdMap, IdMapEntry, IdMaps
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.instances.verified import Verified
from lxc_userns.linux.file_identity import FileIdentity
from lxc_userns.linux.fuser import Closed
from lxc_userns.spec.requirements import Device, Mode, Requirements
from lxc_userns.spec.rootfs_kind import RootfsKind
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume

#: Most characters of one text, and most items of one sequence or mapping.
LONGEST: Final = 1 << 16
MOST: Final = 1 << 12

_PLAIN: Final = (str, int, bool)
#: What the classes may import for type checkers alone.
_NAMES: Final = {
    "Closed": Closed,
    "Device": Device,
    "FileIdentity": FileIdentity,
    "IdMap": IdMap,
    "IdMapEntry": IdMapEntry,
    "IdMaps": IdMaps,
    "InstanceRecord": InstanceRecord,
    "Mode": Mode,
    "Requirements": Requirements,
    "RootfsKind": RootfsKind,
    "Strategy": Strategy,
    "Verified": Verified,
    "Volume": Volume,
}


def encode(value: Any) -> Any:
    """Return a value as numbers, texts, lists and dictionaries.

    :param value: of a dataclass, or of a type that one may have as a field.
    """
    if is_dataclass(value):
        return {
            each.name: encode(getattr(value, each.name))
            for each in fields(value)
        }
    if isinstance(value, Mapping):
        return {key: encode(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [*map(encode, value)]
    return value.value if isinstance(value, Enum) else value


def decode(what: str, name: str, kind: Any, data: object) -> Any:
    """Return the value that :func:`encode` made plain.

    :param what: the call that it belongs to, for the error.
    :param name: where it is in that.
    :param kind: the dataclass, or the annotation of a field.
    :raises LxcUsernsError: if it is no such value.
    """
    return _Place(what, name).decode(kind, data)


def decode_arguments(
    function: Callable[..., Any], data: object
) -> dict[str, Any]:
    """Return the arguments of a call, by the function's annotations.

    :raises LxcUsernsError: if they are none for it.
    """
    wanted = {**_annotations(function)}
    wanted.pop("return")
    place = _Place(function.__name__, "")
    return place.decode_items(wanted, data)


def decode_result(function: Callable[..., Any], data: object) -> Any:
    """Return what a function has returned, by its annotation.

    :raises LxcUsernsError: if it is anything else.
    """
    kind = _annotations(function)["return"]
    return decode(function.__name__, "result", kind, data)


@cache
def _annotations(of: Any) -> Mapping[str, Any]:
    return get_type_hints(of, localns=_NAMES)


class _Place:
    """Place of a value in what came over."""

    def __init__(self, what: str, name: str) -> None:
        self._what = what
        self._name = name
        self._shown = name or "arguments"

    def decode(self, kind: Any, data: object) -> Any:
        origin, options = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return self._decode_union({*options}, data)
        if origin is Literal:
            return self._choose(options, data)
        if origin is tuple:
            return self._decode_tuple(options, data)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            keys = self._check(data, Mapping).keys()
            return self.decode_items(dict.fromkeys(keys, options[1]), data)
        if kind in (*_PLAIN, types.NoneType):
            return self._check(data, kind)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(self._choose([each.value for each in kind], data))
        return self._decode_fields(kind, data)

    def decode_items(
        self, wanted: Mapping[str, Any], data: object
    ) -> dict[str, Any]:
        """Return the items of a mapping, of which each has its own type."""
        given = self._check(data, Mapping)
        for key in given:
            self._at(".key")._check(key, str)
        if given.keys() != wanted.keys():
            names = ", ".join(sorted(wanted)) or "nothing"
            self._refuse([*given], f"give {names}")
        return {
            key: self._at(f".{key}").decode(wanted[key], each)
            for key, each in given.items()
        }

    def _decode_union(self, kinds: set[Any], data: object) -> Any:
        for plain in (types.NoneType, str):
            if plain in kinds and isinstance(data, plain):
                return self._check(data, plain)
        # Of what is none of these there is one.
        (kind,) = kinds - {types.NoneType, str} or {str}
        return self.decode(kind, data)

    def _decode_tuple(self, kinds: Sequence[Any], data: object) -> Any:
        given = self._check(data, tuple, list)
        if kinds[-1] is ...:
            kinds = [kinds[0]] * len(given)
        if len(kinds) != len(given):
            self._refuse(data, f"give {len(kinds)} values")
        return tuple(
            self._at(f"[{number}]").decode(kind, each)
            for number, (kind, each) in enumerate(
                zip(kinds, given, strict=True)
            )
        )

    def _decode_fields(self, kind: Any, data: object) -> Any:
        wanted = _annotations(kind)
        values = self.decode_items(
            {each.name: wanted[each.name] for each in fields(kind)}, data
        )
        try:
            return kind(**values)
        except LxcUsernsError:
            raise
        except (TypeError, ValueError) as err:
            self._refuse(data, f"{err}; give {kind.__name__}")

    def _choose(self, options: Sequence[Any], data: object) -> Any:
        if type(data) is not str or data not in options:
            self._refuse(data, f"give {', '.join(options)}")
        return data

    def _check(self, data: Any, *kinds: type) -> Any:
        check_type(self._what, self._shown, data, *kinds)
        most = LONGEST if isinstance(data, str) else MOST
        if not isinstance(data, int | None) and len(data) > most:
            self._refuse(data, f"is longer than {most}; give less")
        return data

    def _at(self, part: str) -> _Place:
        return _Place(self._what, f"{self._name}{part}".removeprefix("."))

    def _refuse(self, data: object, reason: str) -> NoReturn:
        refuse(self._what, self._shown, data, reason)
