# SPDX-License-Identifier: Apache-2.0
"""Strategies: how the files of an image come to belong to mapped IDs.

The names and their traits; :mod:`lxc_userns.rootfs.views.strategies` does
what they say.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

from lxc_userns.exceptions import ConfigError

#: How the kernel shows a view: idmapped itself, an overlay, or neither.
MountKind = Literal["idmapped", "overlay", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Traits of a strategy.

    :param summary: what it does, for who configures it; empty: it cannot be
        asked for.
    :param needs_id_maps: whether it is for containers with ID maps.
    :param needs_idmapped_mounts: whether the kernel and the filesystem have
        to make an idmapped mount of the tree.
    :param shifts_on_disk: whether the owners on disk become host IDs.
    :param shares_source: whether the tree is only read, so that many
        instances can have it, and has to stay as it is meanwhile.
    :param private_upper: whether what an instance changes is kept below
        ``state_path``, as a layer of its own.
    :param mount: how the kernel shows the view.
    """

    summary: str = ""
    needs_id_maps: bool = True
    needs_idmapped_mounts: bool = False
    shifts_on_disk: bool = False
    shares_source: bool = False
    private_upper: bool = False
    mount: MountKind = "plain"


#: For type checkers: a member is found by its name alone.
_NONE = Traits()


class Strategy(StrEnum):
    """A strategy, by the name that a configuration and a record have."""

    traits: Traits

    def __new__(cls, name: str, traits: Traits = _NONE) -> Self:
        """Return the member of a name, with its traits."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.traits = traits
        return member

    #: One of those below, chosen once the tree is there to be tried.
    AUTO = (
        "auto",
        Traits(summary="idmapped where it works for the path, else chown."),
    )
    IDMAPPED = (
        "idmapped",
        Traits(
            summary="The kernel shifts owners as it shows them.",
            needs_idmapped_mounts=True,
            mount="idmapped",
        ),
    )
    OVERLAY = (
        "overlay",
        Traits(
            summary="Idmapped shared image below, private layer above.",
            needs_idmapped_mounts=True,
            shares_source=True,
            private_upper=True,
            mount="overlay",
        ),
    )
    CHOWN = (
        "chown",
        Traits(
            summary="Owners are shifted on disk, once, recursively.",
            shifts_on_disk=True,
        ),
    )
    #: What a container without ID maps has. Records have had this name.
    BIND = "plain", Traits(needs_id_maps=False)


#: Strategies that can be asked for.
CHOICES = tuple(each for each in Strategy if each.traits.summary)


def find_choice(name: str) -> Strategy:
    """Return the strategy of a name, if it can be asked for.

    :raises ConfigError: if there is none.
    """
    if name not in CHOICES:
        raise ConfigError(
            "[lxc_userns] rootfs_strategy",
            name,
            f"expected {', '.join(CHOICES)}",
        )
    return Strategy(name)
