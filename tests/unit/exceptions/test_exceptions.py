# SPDX-License-Identifier: Apache-2.0
"""Errors keep what they say across pickling and privsep."""

import copy
import importlib
import inspect
import pickle
import socket
from typing import Any

import pytest
from oslo_privsep import comm

from lxc_userns import exceptions
from lxc_userns.exceptions import LxcUsernsError

# Arguments by parameter name: a new error with new ones fails here.
VALUES: dict[str, object] = {
    "cause": "Input/output error",
    "demand": "the policy asks for that",
    "line": 7,
    "name": "web1",
    "names": ("web1",),
    "operation": "define web1",
    "option": "[libvirt] uid_maps",
    "path": "/srv/rootfs",
    "code": 125,
    "reason": "it is broken",
    "timeout": 10.5,
    "reasons": ("one thing", "another"),
    "conflicts": ("<name> is another's",),
    "rule": "count",
    "uids": (70000, 70001),
    "gids": (80000,),
    "value": "0:1:0",
    "verb": "release",
    "what": "device",
}


def leaves(base: type[LxcUsernsError]) -> list[type[LxcUsernsError]]:
    below = base.__subclasses__()
    return [base, *(leaf for each in below for leaf in leaves(each))][
        base is LxcUsernsError :
    ]


#: The same for what no one expects there: bytes that are no text, other
#: scripts, numbers of the largest IDs, and nothing at all.
ODD_VALUES: dict[str, object] = {
    **{
        name: f"{value}\n\udcff\N{BLACK STAR}"
        for name, value in VALUES.items()
        if isinstance(value, str)
    },
    "line": 2**63,
    "names": ("\udcff", ""),
    "code": 0,
    "timeout": 0.0,
    "reasons": (),
    "conflicts": ("", "\udcff"),
    "uids": (2**32 - 2,),
    "gids": (),
}


def make(
    kind: type[LxcUsernsError], values: dict[str, object] = VALUES
) -> LxcUsernsError:
    names = list(inspect.signature(kind).parameters)
    error: LxcUsernsError = kind(*(values[name] for name in names))
    for name in names:
        assert getattr(error, name) == values[name]
    return error


def across(error: Exception) -> Exception:
    """Send an error as the helper does, and make it as the service does."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__name__}"
    here, there = socket.socketpair()
    with here, there:
        comm.Serializer(here).send((comm.Message.ERR.value, name, error.args))
        _, path, arguments = next(comm.Deserializer(there))
    module, _, name = path.rpartition(".")
    found: Any = getattr(importlib.import_module(module), name)
    made: Exception = found(*arguments)
    return made


@pytest.mark.parametrize("kind", leaves(LxcUsernsError))
@pytest.mark.parametrize("values", [VALUES, ODD_VALUES], ids=["usual", "odd"])
def test_comes_back_from_the_helper(
    kind: type[LxcUsernsError], values: dict[str, object]
) -> None:
    error = make(kind, values)
    twin = across(error)
    assert type(twin) is kind
    assert str(twin) == str(error)
    # Each attribute with its type: a list is no tuple, a code no text.
    assert vars(twin) == vars(error)
    assert list(map(type, vars(twin).values())) == list(
        map(type, vars(error).values())
    )


def test_every_error_is_among_these() -> None:
    """All that is public, and whatever else is raised of this package's."""
    public = {
        value
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, LxcUsernsError)
    }
    assert {*leaves(LxcUsernsError), LxcUsernsError} == public


@pytest.mark.parametrize("kind", leaves(LxcUsernsError))
def test_survives_the_boundary(kind: type[LxcUsernsError]) -> None:
    error = make(kind)
    for twin in (
        pickle.loads(pickle.dumps(error)),  # noqa: S301 - ours
        copy.copy(error),
        kind(*error.args),
        # privsep carries the arguments as msgpack lists, not tuples.
        kind(*(list(a) if isinstance(a, tuple) else a for a in error.args)),
    ):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize("kind", leaves(LxcUsernsError))
def test_text_is_one_line_that_names_what(kind: type[LxcUsernsError]) -> None:
    text = str(make(kind))
    assert "\n" not in text
    for name in inspect.signature(kind).parameters:
        if name not in {
            "code",
            "rule",
            "reasons",
            "conflicts",
            "uids",
            "gids",
        }:
            assert str(VALUES[name]) in text


@pytest.mark.parametrize("kind", leaves(LxcUsernsError))
def test_is_in_the_tree_of_the_docstring(kind: type[LxcUsernsError]) -> None:
    assert getattr(exceptions, kind.__name__) is kind
    assert f"── {kind.__name__}" in (exceptions.__doc__ or "")


def test_unmapped_ids() -> None:
    error = exceptions.UnmappedIdsError("/srv/rootfs", [70000], [])
    assert (error.uids, error.gids) == ((70000,), ())
    assert "user IDs 70000" in str(error)
    assert "group" not in str(error)
    both = exceptions.UnmappedIdsError("/srv/rootfs", [1, 2], [3])
    assert "user IDs 1, 2; group IDs 3" in str(both)


def test_id_map_error_is_a_value_error() -> None:
    assert issubclass(exceptions.IdMapError, ValueError)


def test_no_empty_value_is_shown() -> None:
    error = exceptions.ConfigError("[libvirt] gid_maps", "", "is missing")
    assert str(error) == "[libvirt] gid_maps: is missing"


def test_the_name_of_before_warns() -> None:
    with pytest.warns(DeprecationWarning, match="exceptions.ExposedTreeError"):
        found = exceptions.ReachableError
    assert found is exceptions.ExposedTreeError
    with pytest.raises(AttributeError, match="Other"):
        exceptions.Other  # noqa: B018
