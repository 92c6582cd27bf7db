# SPDX-License-Identifier: Apache-2.0
"""Verbs of the manager and of the privileged helper, and nothing else."""

import csv
import inspect
from types import ModuleType
from typing import Any

import pytest

from lxc_userns import UserNamespaceManager, privileged
from lxc_userns.verification import VerifiedInstance
from tests.samples import TOP
from tests.unit.manager.world import World

VERBS = {"allocate", "prepare", "verify", "unmount", "release", "sync"}
#: What the helper does not take: nothing but plain values reaches it, and
#: what is deprecated was never there.
ALONE = {"prepare": {"progress"}, "verify": {"report_only"}}

with (TOP / "doc/source/reference/verbs.csv").open() as _stream:
    TABLE = [*csv.DictReader(_stream)]


#: Of annotations that are not there but for type checkers.
NAMES: dict[str, Any] = {
    "Progress": object,
    "VerifiedInstance": VerifiedInstance,
}


def public(of: object) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def test_all_else_of_the_manager_is_private(world: World) -> None:
    assert public(UserNamespaceManager) == VERBS
    assert public(world.manager) == VERBS


def test_all_else_of_the_helper_is_private() -> None:
    assert {*privileged.__all__} == VERBS | {"CONTEXT", "find_problems"}
    rest = public(privileged) - {*privileged.__all__}
    # Its own modules, once they are loaded.
    for name in rest:
        value = getattr(privileged, name)
        assert isinstance(value, ModuleType), name
        assert value.__name__ == f"lxc_userns.privileged.{name}"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_the_helper_takes_and_gives_the_same(verb: str) -> None:
    of_manager = inspect.signature(
        getattr(UserNamespaceManager, verb), eval_str=True, locals=NAMES
    )
    of_helper = inspect.signature(
        getattr(privileged, verb), eval_str=True, locals=NAMES
    )
    assert of_helper.return_annotation == of_manager.return_annotation
    taken = dict(of_manager.parameters)
    del taken["self"]
    for name in ALONE.get(verb, ()):
        del taken[name]
    assert [*of_helper.parameters.values()] == [*taken.values()]


def leads_to(verb: str) -> set[str]:
    """States to which a verb leads, by the table, from any other."""
    return {
        after
        for row in TABLE
        if row["verb"].split()[0].rstrip(",") == verb
        for before, after in row.items()
        if before != "verb" and after != before and after.islower()
    }


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_each_verb_is_documented(verb: str) -> None:
    """States before and after, who may call it, what a crash leaves."""
    text = inspect.getdoc(getattr(UserNamespaceManager, verb)) or ""
    described = text.partition(":param")[0].partition(":raises")[0]
    for word in ("crash", "thread", *leads_to(verb)):
        assert word in described, word
    assert inspect.getdoc(getattr(privileged, verb))
