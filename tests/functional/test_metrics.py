# SPDX-License-Identifier: Apache-2.0
"""Metrics of a host with containers, by the command."""

from collections import Counter
from pathlib import Path

import libvirt
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.functional.command_line import CommandLine
from tests.functional.conftest import CommandLineFactory
from tests.functional.containers import SLEEP
from tests.functional.lease_host import WITHOUT_LIBVIRT

pytestmark = pytest.mark.needs("containers")

SINCE = "lxc_userns_container_seconds_since_verified"
FOREIGN = """
<domain type='lxc'><name>odd "name" \\ {{}}</name>
  <memory unit='MiB'>32</memory><os><type>exe</type><init>/bin/sh</init></os>
  <devices><filesystem type='mount'><source dir='{root}'/><target dir='/'/>
  </filesystem></devices>
</domain>"""


@pytest.fixture
def cli(command_line: CommandLineFactory) -> CommandLine:
    """The program, with each root filesystem idmapped."""
    return command_line("rootfs_strategy = idmapped\n")


def parse(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples of each metric, by their labels in order."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = tuple(v for _, v in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[key] = sample.value
    return found


def test_of_containers(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    tmp_path: Path,
) -> None:
    run = "container", "run"
    # Of libvirt's others, who may have some.
    before = parse(cli("metrics").out).get("lxc_userns_containers", {})
    cli.json(*run, "web", "--rootfs", busybox_rootfs, "--init", SLEEP)
    foreign = libvirt_connection.defineXML(FOREIGN.format(root=busybox_rootfs))
    try:
        done = cli("metrics")
        assert (done.code, done.err) == (0, "")
        found = parse(done.out)
        assert Counter(found["lxc_userns_containers"]) == Counter(
            before
        ) + Counter({
            ("private", "running", "idmapped"): 1,
            ("host", "stopped", "none"): 1,
        })  # fmt: skip
        (seconds,) = found[SINCE].values()
        assert 0 <= seconds < 600
        assert set(found["lxc_userns_failures_total"].values()) == {0}
    finally:
        foreign.undefine()
    # As for node_exporter, whatever libvirtd does.
    file = tmp_path / "lxc-userns.prom"
    options = "metrics", "--output", file
    assert "libvirt" in cli(*options, prefix=WITHOUT_LIBVIRT).error(4)
    found = parse(file.read_text())
    assert found["lxc_userns_libvirt_up"] == {(): 0}
    assert found["lxc_userns_containers"] == {
        ("private", "unknown", "idmapped"): 1
    }
    assert file.stat().st_mode & 0o777 == 0o644
    assert cli("container", "destroy", "web").code == 0
    assert list(cli.run.iterdir()) == []


def test_of_one_that_differs(cli: CommandLine, busybox_rootfs: Path) -> None:
    cli.json("container", "run", "web", "--rootfs", busybox_rootfs)
    (record,) = (cli.state / "instances").glob("web.json")
    record.write_text(record.read_text().replace("65536", "65535"))
    assert cli("container", "verify", "web").code == 1
    found = parse(cli("metrics").out)
    assert found["lxc_userns_failures_total"] == {
        ("preparation",): 0,
        ("difference",): 1,
        ("inspection",): 0,
    }
    assert found.get(SINCE, {}) == {}
