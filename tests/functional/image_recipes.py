# SPDX-License-Identifier: Apache-2.0
"""The recipes of ``user/images.rst``; run by ``make test-recipes``.

As somebody copies them, with the programs of the distribution, and packages
from its mirror. What would come from a registry of images is the same image,
made here.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional import images
from tests.functional.command_line import ID_MAP, PROGRAM
from tests.functional.conftest import reachable_directory
from tests.samples import TOP, run_line, samples
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers", "private-libvirtd")

PAGE = "doc/source/user/images.rst"
REGISTRY = "docker://docker.io/library/debian:13"
LOCAL = "localhost/debian:13"
#: Seconds for one command; most of them are spent on downloads.
LONGEST = 900


class Recipes:
    """The page's commands, on a host with a /srv of its own.

    :param path: what they may write to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "srv").mkdir()
        storage = path / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{path}/images"\n'
            f'runroot = "{path}/podman"\n'
        )
        self.environment = {
            **os.environ,
            **images.proxies(),
            "CONTAINERS_STORAGE_CONF": str(storage),
            "OS_LIBVIRT__UID_MAPS": ID_MAP,
            "OS_LIBVIRT__GID_MAPS": ID_MAP,
            "OS_LXC_USERNS__STATE_PATH": f"{path}/state",
            "OS_LXC_USERNS__RUN_PATH": f"{path}/run",
            "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}",
        }

    def commands(self, *programs: str) -> list[str]:
        """Return those of the page that are of some programs, in order."""
        lines = [
            line for each in samples(TOP / PAGE) for line in each.commands
        ]
        found = [
            line
            for line in lines
            if any(f" {each} " in f" {line} " for each in programs)
        ]
        assert found
        return found

    def run(self, command: str) -> str:
        """Run a command as in a root shell."""
        command = command.replace(REGISTRY, f"containers-storage:{LOCAL}")
        command = command.replace(REGISTRY.removeprefix("docker://"), LOCAL)
        directory = self.path / "srv"
        done = run_line(command, directory, self.environment, LONGEST)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def inside(self, name: str, command: str) -> str:
        """Run a command in a container."""
        return self.run(f"lxc-userns container exec {name} -- {command}")

    def is_running(self, name: str) -> bool:
        """Return whether its systemd has ended its boot with all units."""
        state = self.inside(name, "systemctl is-system-running || true")
        assert state.strip() != "degraded"
        return state.strip() == "running"


@pytest.fixture(scope="module")
def recipes() -> Iterator[Recipes]:
    """The page's commands; each test has what those before have made."""
    with reachable_directory() as path:
        found = Recipes(path)
        bind = ["mount", "--no-mtab", "--bind", f"{path}/srv", "/srv"]
        subprocess.run(bind, check=True)
        try:
            for each in found.commands("install"):
                found.run(each)
            yield found
        finally:
            found.run("lxc-userns container destroy --all")
            subprocess.run(
                ["umount", "--lazy", "--no-mtab", "/srv"], check=True
            )


@pytest.mark.parametrize(
    ("program", "name"), [("debootstrap", "debian"), ("mmdebstrap", "fast")]
)
def test_debian(recipes: Recipes, program: str, name: str) -> None:
    for each in recipes.commands(program, f"/srv/containers/{name}"):
        recipes.run(each)
    wait_for(lambda: recipes.is_running(name))
    assert recipes.inside(name, "stat -c %U /").strip() == "root"


def test_podman(recipes: Recipes) -> None:
    recipes.run(f"podman import -c 'CMD bash' /srv/images/debian.tar {LOCAL}")
    for each in recipes.commands(
        "podman create", "podman export", "podman rm", "/srv/containers/source"
    ):
        recipes.run(each)
    assert "ID=debian" in recipes.inside("source", "cat /etc/os-release")


def test_layout(recipes: Recipes) -> None:
    for each in recipes.commands("skopeo", "/srv/containers/layers"):
        recipes.run(each)
    assert "ID=debian" in recipes.inside("layers", "cat /etc/os-release")


def test_disk(recipes: Recipes) -> None:
    tree = Path("/srv/containers/fast")
    disk = recipes.path / "disk.img"
    images.make_image("ext4", disk, 1024, root=tree)
    recipes.run(f"qemu-img convert -f raw -O qcow2 {disk} /srv/web.qcow2")
    for each in recipes.commands("qemu-img", "/srv/images/web.img"):
        recipes.run(each)
    wait_for(lambda: recipes.is_running("disk"))


def test_disk_with_partitions(recipes: Recipes) -> None:
    disk = recipes.path / "disk.img"
    whole = Path("/srv/cloud.img")
    with whole.open("wb") as stream:
        stream.truncate((1 << 20) + disk.stat().st_size + (1 << 20))
    table = f"label: gpt\nstart=2048, size={disk.stat().st_size // 512}\n"
    subprocess.run(["sfdisk", whole], input=table, text=True, check=True)
    recipes.run(f"dd if={disk} of={whole} bs=1M seek=1 conv=notrunc,sparse")
    shown = json.loads(recipes.run(f"sfdisk --json {whole}"))
    (partition,) = shown["partitiontable"]["partitions"]
    (dd,) = recipes.commands("dd")
    assert f"skip={partition['start']}" in dd
    recipes.run(dd)
    image = "/srv/images/cloud.img"
    recipes.run(f"lxc-userns container run cloud --rootfs {image}")
    assert "ID=debian" in recipes.inside("cloud", "cat /etc/os-release")
