# SPDX-License-Identifier: Apache-2.0
"""Records, leases and traces that an earlier version has written.

``tests/data/earlier-state.tar.xz`` is a state directory of seven containers:
one of each strategy, of a disk image, of an archive, with a volume, and in
mode ``host``; with a lease that is held and one that was released.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.command_line import CommandLine
from tests.functional.lease_host import make_command_line, mounted_host_files

pytestmark = pytest.mark.needs("containers")

ARCHIVE = Path(__file__).parents[1] / "data/earlier-state.tar.xz"
STRATEGIES = {
    "archive": "idmapped",
    "chown": "chown",
    "disk": "idmapped",
    "host": "plain",
    "idmapped": "idmapped",
    "overlay": "overlay",
    "volumes": "idmapped",
}
FIRST = 2013265920


@pytest.fixture
def cli(
    libvirt_connection: object, tmp_path: Path, reachable_path: Path
) -> Iterator[CommandLine]:
    """The program, with the state of the earlier version."""
    argv = ["tar", "-xJf", str(ARCHIVE), "--no-same-owner"]
    subprocess.run([*argv, "-C", str(tmp_path)], check=True)
    with mounted_host_files(tmp_path / "etc"):
        made = make_command_line(tmp_path, reachable_path / "run")
        assert made.state == tmp_path / "state"
        yield made


def test_containers_are_listed_and_shown(cli: CommandLine) -> None:
    names = [each["name"] for each in cli.json("container", "list")]
    assert sorted(names) == sorted(STRATEGIES)
    for name, strategy in STRATEGIES.items():
        shown = cli.json("container", "show", name)
        assert shown["strategy"] == strategy
        assert shown["mode"] == ("host" if name == "host" else "private")
        assert shown["ended"] == "signal SIGKILL"
    source = "/srv/lxc-userns-sample/share/data"
    assert shown["volumes"] == [f"{source}:/data:idmap,ro"]


def test_leases_are_listed_and_released(cli: CommandLine) -> None:
    leases = {each["instance"]: each for each in cli.json("lease", "list")}
    assert set(leases) == {*STRATEGIES, "held"} - {"host"}
    assert leases["idmapped"]["uid_start"] == FIRST
    assert leases["held"]["uid_start"] == FIRST + 7 * 65536
    assert cli("lease", "release", "held").code == 0
    left = {each["instance"] for each in cli.json("lease", "list")}
    assert left == set(leases) - {"held"}


def test_containers_are_destroyed(cli: CommandLine) -> None:
    for name in STRATEGIES:
        done = cli("container", "destroy", name)
        assert done.code == 0, done
    assert cli.json("container", "list") == []
    left = [each["instance"] for each in cli.json("lease", "list")]
    assert left == ["held"]
