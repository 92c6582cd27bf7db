# SPDX-License-Identifier: Apache-2.0
"""Checks of networks and bridges."""

from lxc_userns.findings import Severity
from lxc_userns.host.networks import evaluate_bridges, evaluate_networks


def test_networks() -> None:
    assert evaluate_networks({"default": True}).message == "active: default"
    assert evaluate_networks({}).severity == Severity.INFO
    found = evaluate_networks({"b": False, "default": True, "a": False})
    assert (found.severity, found.message) == (
        Severity.WARN,
        "not active: a, b",
    )
    assert "net-start a; virsh -c lxc:/// net-start b" in found.remedy


def test_bridges() -> None:
    assert evaluate_bridges({}, set()).severity == Severity.INFO
    assert (
        evaluate_bridges({"br0": "web"}, {"br0"}).message == "there are: br0"
    )
    found = evaluate_bridges({"br0": "web", "br1": "db"}, {"br0", "lo"})
    assert found.severity == Severity.WARN
    assert (
        "there is no bridge br1, which db is to be attached" in found.message
    )
    assert found.remedy == "ip link add br1 type bridge"
