# SPDX-License-Identifier: Apache-2.0
"""Whole containers, for those who have no compute service."""

from lxc_userns.containers.containers import Containers
from lxc_userns.containers.spec import ContainerSpec
from lxc_userns.containers.state import UNVERIFIED, Container

__all__ = ["UNVERIFIED", "Container", "ContainerSpec", "Containers"]
