# SPDX-License-Identifier: Apache-2.0
"""Each strategy is one row of traits and one class."""

import copy
import json

import pytest

from lxc_userns.exceptions import ConfigError
from lxc_userns.rootfs.views.strategies import STRATEGIES
from lxc_userns.spec.strategy import CHOICES, Strategy, find_choice


def test_each_but_auto_has_a_class() -> None:
    assert {*STRATEGIES} == {*Strategy} - {Strategy.AUTO}


def test_which_can_be_asked_for() -> None:
    assert CHOICES == ("auto", "idmapped", "overlay", "chown")


def test_one_that_cannot_be_asked_for() -> None:
    assert find_choice("overlay") is Strategy.OVERLAY
    for name in ("plain", "none"):
        with pytest.raises(ConfigError, match="expected auto, idmapped, ov"):
            find_choice(name)


@pytest.mark.parametrize("each", Strategy)
def test_traits_agree(each: Strategy) -> None:
    traits = each.traits
    # Owners are shifted in one way, and an upper layer is on something.
    assert not (traits.shifts_on_disk and traits.needs_idmapped_mounts)
    assert traits.shares_source or not traits.private_upper
    if traits.mount != "plain":
        assert traits.needs_idmapped_mounts


def test_a_record_says_what_it_always_has() -> None:
    assert json.dumps(Strategy.BIND) == '"plain"'
    assert Strategy("plain") is Strategy.BIND


@pytest.mark.parametrize("each", Strategy)
def test_a_copy_is_the_same(each: Strategy) -> None:
    assert copy.copy(each) is each
    assert copy.deepcopy(each) is each
