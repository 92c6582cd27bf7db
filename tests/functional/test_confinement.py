# SPDX-License-Identifier: Apache-2.0
"""Labels of a security module, where libvirtd has a driver for one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from lxc_userns.domain.seclabel import parse_models
from lxc_userns.linux.process import Process
from tests.functional.command_line import CommandLine

pytestmark = pytest.mark.needs("containers")

INIT = ("--init", "/bin/sleep 1000")


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    return command_line("userns_policy = preferred\n")


def label(shown: dict[str, Any]) -> str:
    with Process(shown["init_pid"]) as init:
        return init.security_label


def cli_findings(cli: CommandLine) -> Any:
    return json.loads(cli("domain", "audit", "web1", "-f", "json").out)


@pytest.mark.parametrize("mode", ["private", "host"])
def test_a_container_is_confined_where_libvirtd_can(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    mode: str,
) -> None:
    models = parse_models(libvirt_connection.getCapabilities())
    options = ("--rootfs", busybox_rootfs, "--mode", mode, *INIT)
    done = cli("container", "run", "web1", *options, "-f", "json")
    assert done.code == 0, done
    domain = libvirt_connection.lookupByName("web1")
    found = etree.fromstring(domain.XMLDesc()).find("seclabel")
    pid = cli.json("container", "show", "web1")["init_pid"]
    if models:
        assert found is not None
        assert found.get("model") == models[0]
        made = found.findtext("label")
        assert made
        assert label({"init_pid": pid}).startswith(made)
    else:
        assert found is None or found.get("type") == "none"
    assert cli("container", "verify", "web1").code == 0
    codes = {each["code"] for each in cli_findings(cli)}
    assert ("no-seclabel" in codes) == (not models)


def test_it_can_be_left_out(
    command_line: Callable[[str], CommandLine],
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    cli = command_line("seclabel = none\n")
    options = ("--rootfs", busybox_rootfs, *INIT)
    cli.json("container", "run", "web1", *options)
    xml = libvirt_connection.lookupByName("web1").XMLDesc(
        libvirt.VIR_DOMAIN_XML_INACTIVE
    )
    found = etree.fromstring(xml).find("seclabel")
    assert found is None or found.get("type") == "none"
    assert cli("container", "verify", "web1").code == 0


def test_a_model_that_libvirtd_does_not_have(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """The record is asked, not the domain, which somebody has changed."""
    options = ("--rootfs", busybox_rootfs, *INIT)
    cli.json("container", "run", "web1", *options)
    record = cli.state / "instances/web1.json"
    text = record.read_text()
    changed = text.replace('"security_model": null', '"security_model": "x"')
    changed = changed.replace(
        '"security_model": "apparmor"', '"security_model": "x"'
    )
    assert changed != text
    record.write_text(changed)
    error = cli("container", "verify", "web1").error()
    assert error.startswith("web1: its domain has no label of x")
