# SPDX-License-Identifier: Apache-2.0
"""Volumes mounted for a test, and who looks at them."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.rootfs.views import image_volumes, mountpoints, volumes
from lxc_userns.rootfs.views.strategies import ShiftOptions
from lxc_userns.spec.volume import Volume
from tests.functional import guest
from tests.functional.conftest import remove_tree

BASE, OTHER_BASE = 1_900_000_000, 1_950_000_000
ONE, OTHER = (
    IdMaps(id_map, id_map)
    for id_map in (
        IdMap.parse(f"0:{base}:65536") for base in (BASE, OTHER_BASE)
    )
)
ALICE, UNMAPPED, HOST_USER = 1000, 70000, 65534
LONGEST = 60


class Host:
    """Host with views that are mounted for the test."""

    def __init__(self, path: Path) -> None:
        self.views = mountpoints.Views(str(path))

    def mount(
        self,
        volume: str,
        id_maps: IdMaps | None = ONE,
        instance: str = "one",
        options: ShiftOptions | None = None,
    ) -> Path:
        """Mount a volume as an instance's only one."""
        with image_volumes.opened(Volume.parse(volume)) as source:
            return self.mount_source(source, id_maps, instance, options)

    def mount_source(
        self,
        source: volumes.Source,
        id_maps: IdMaps | None = ONE,
        instance: str = "one",
        options: ShiftOptions | None = None,
    ) -> Path:
        """Mount what is open already."""
        self.views.mount(
            instance,
            "volume0",
            id_maps,
            partial(source.mount, id_maps, options=options),
            is_directory=source.is_directory,
        )
        return Path(self.views.path(instance, "volume0"))


@pytest.fixture
def host(reachable_path: Path) -> Host:
    """Views that the mapped root of a container can reach."""
    return Host(reachable_path / "run")


@pytest.fixture
def hidden() -> Iterator[Path]:
    """A directory that only root can reach."""
    parent = Path(tempfile.mkdtemp(prefix="lxc-userns-", dir="/var/tmp"))
    yield make_tree(parent / "tree")
    remove_tree(parent)


@pytest.fixture
def open_tree(reachable_path: Path) -> Path:
    """A directory that everybody can reach."""
    parent = reachable_path / "open"
    parent.mkdir()
    return make_tree(parent / "tree")


def make_tree(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    for name, owner in (("root", 0), ("alice", ALICE), ("other", UNMAPPED)):
        (path / name).write_text(f"{name}\n")
        os.chown(path / name, owner, owner)
    return path


def seen(point: Path, script: str, uid: int = 0, id_maps: IdMaps = ONE) -> str:
    """Return what a script prints there that succeeds."""
    done = guest.run(id_maps, "sh", "-c", script, user=uid, cwd=point)
    assert done.returncode == 0, done
    return done.stdout.strip()


def refused(
    point: Path, script: str, uid: int = 0, id_maps: IdMaps = ONE
) -> str:
    """Return what a script says there that fails."""
    done = guest.run(id_maps, "sh", "-c", script, user=uid, cwd=point)
    assert done.returncode != 0, done
    return done.stdout + done.stderr


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def bind(source: Path, target: Path, options: str = "") -> None:
    subprocess.run(["mount", "--bind", source, target], check=True)
    if options:
        remount = f"remount,bind,{options}"
        subprocess.run(["mount", "-o", remount, target], check=True)


# Targets.


@pytest.fixture
def image(hidden: Path) -> Path:
    """A root filesystem with links of all kinds."""
    root = hidden.parent / "image"
    for name in (".oldroot/tmp", "dev", "etc", "proc/self", "run", "srv/a",
                 "var"):  # fmt: skip
        (root / name).mkdir(parents=True)
    (root / "etc/file").touch()
    os.mkfifo(root / "etc/fifo")
    links = {
        "var/run": "/run",
        "var/relative": "../run",
        "var/up": "../../../../run",
        "old": "/.oldroot/tmp",
        "old2": ".oldroot",
        "old3": "srv/../../.oldroot/tmp",
        "proc/self/root": "/srv",
        "through": "/proc/self/root/a",
        "processes": "/proc",
        "devices": "../dev",
        "system": "/sys/fs",
        "top": "/",
        "top2": "srv/..",
        "dangling": "/nothing",
        "dangling2": "/nothing/at/all",
        "file": "etc/file",
        "loop": "loop",
        "chain0": "/srv",
    }
    links |= {f"chain{n}": f"chain{n - 1}" for n in range(1, 60)}
    for name, link in links.items():
        (root / name).symlink_to(link)
    return root
