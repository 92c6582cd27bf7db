# SPDX-License-Identifier: Apache-2.0
"""Time of a call of the hook, whatever the size of the tree.

libvirtd answers no one meanwhile.
"""

import subprocess
import time
from collections.abc import Iterator
from operator import truediv
from pathlib import Path
from statistics import median

import libvirt
import pytest

from tests.functional import images
from tests.functional.command_line import PROGRAM, CommandLine
from tests.functional.conftest import CommandLineFactory

pytestmark = pytest.mark.needs("containers")

#: Inodes of the larger tree, beside those of the smaller.
MANY = 50_000
IN_ONE = 1000
ROUNDS = 7
#: How much longer two calls may take for it; to look at each inode would take
#: three times as long.
MOST = 2.0
XML = """\
<domain type='lxc'>
  <name>{name}</name>
  <memory unit='MiB'>128</memory>
  <os><type>exe</type><init>/bin/sleep</init><initarg>1000</initarg></os>
  <devices>
    <filesystem type='mount'>
      <source dir='{tree}'/><target dir='/'/>
    </filesystem>
  </devices>
</domain>
"""


@pytest.fixture(params=["idmapped", "overlay", "chown"])
def cli(
    command_line: CommandLineFactory, request: pytest.FixtureRequest
) -> CommandLine:
    """The program, with each strategy."""
    return command_line(f"rootfs_strategy = {request.param}\n")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trees of different size, which none of the tests shifts."""
    path = tmp_path_factory.mktemp("trees")
    path.chmod(0o700)
    found = []
    for name, number in (("few", 0), ("many", MANY)):
        images.make_busybox(tree := path / name)
        for directory in range(number // IN_ONE):
            (place := tree / "srv" / str(directory)).mkdir(parents=True)
            for file in range(IN_ONE - 1):
                (place / str(file)).touch()
        found.append(tree)
    return found


@pytest.fixture
def domains(
    cli: CommandLine,
    trees: list[Path],
    libvirt_connection: libvirt.virConnect,
) -> Iterator[dict[str, str]]:
    """XML of two converted domains, whose trees differ in size."""
    found = {}
    for tree in trees:
        name = tree.name
        domain = libvirt_connection.defineXML(XML.format(name=name, tree=tree))
        assert cli("domain", "convert", name, "--in-place").code == 0
        found[name] = domain.XMLDesc()
    yield found
    for name in found:
        # Of one that the hook has refused there is no record.
        cli("container", "destroy", name)
    for domain in libvirt_connection.listAllDomains():
        if domain.name() in found:
            domain.undefine()


def call(cli: CommandLine, name: str, operation: str, xml: str) -> str:
    """Call the hook as libvirtd does, and return what it says."""
    argv = [str(PROGRAM.with_name("lxc-userns-hook")), "--config-file"]
    argv += [str(cli.config), name, operation, "begin", "-"]
    done = subprocess.run(
        argv,
        input=xml,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) == (done.stderr == ""), done
    return done.stderr


def test_it_does_not_grow_with_the_tree(
    cli: CommandLine, domains: dict[str, str]
) -> None:
    """Neither of a call that prepares, nor of one that has to refuse."""
    times: dict[str, list[float]] = {name: [] for name in domains}
    said: dict[str, set[str]] = {name: set() for name in domains}
    for _ in range(ROUNDS):
        for name, xml in domains.items():
            start = time.perf_counter()
            told = call(cli, name, "prepare", xml)
            call(cli, name, "release", xml)
            times[name].append(time.perf_counter() - start)
            said[name].add(told.replace(name, "NAME"))
    assert said["few"] == said["many"]
    # Others use the machine too, now and then and not for both.
    ratios = map(truediv, times["many"], times["few"])
    assert median(ratios) < MOST, times
