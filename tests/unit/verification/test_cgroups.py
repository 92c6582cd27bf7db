# SPDX-License-Identifier: Apache-2.0
"""Control groups that a container could write."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pytest

from lxc_userns.linux import cgroups
from lxc_userns.linux.bounds import BoundExceededError
from lxc_userns.linux.mounts import Mount
from lxc_userns.linux.process import Process, Rows
from lxc_userns.verification import cgroups as control

DELEGATED = frozenset({"cgroup.procs", "cgroup.subtree_control"})


def hierarchy(
    point: Path | str, fs_type: str, options: str, root: str = "/"
) -> Mount:
    return Mount(
        1, str(point), fs_type, device="0:7", root=root,
        fs_options=frozenset(options.split(",")),
    )  # fmt: skip


KNOWN = [
    hierarchy("/cg/cpu", "cgroup", "rw,cpu,cpuacct"),
    hierarchy("/cg/systemd", "cgroup", "rw,name=systemd"),
    hierarchy("/cg/unified", "cgroup2", "rw"),
]


def test_groups_and_those_above() -> None:
    of = {
        "cpu,cpuacct": "/machine/a",
        "name=systemd": "/",
        "": "/x",
        "memory": "/nowhere",
    }
    found = [
        (each.hierarchy, each.path, each.is_own, each.controls)
        for each in cgroups.groups(of, KNOWN)
    ]
    assert found == [
        ("cpu,cpuacct", "/cg/cpu/machine/a", True, True),
        ("cpu,cpuacct", "/cg/cpu/machine", False, True),
        ("cpu,cpuacct", "/cg/cpu", False, True),
        ("name=systemd", "/cg/systemd", True, False),
        ("version 2", "/cg/unified/x", True, True),
        ("version 2", "/cg/unified", False, True),
    ]


def test_a_part_of_a_hierarchy() -> None:
    known = [hierarchy("/cg", "cgroup2", "rw", root="/machine")]
    (found, above) = cgroups.groups({"": "/machine/a"}, known)
    assert (found.path, above.path) == ("/cg/a", "/cg")
    # What is not to be seen here cannot be looked at.
    assert list(cgroups.groups({"": "/other/a"}, known)) == []


@dataclass
class FakeProcess:
    """A process whose IDs are those of who runs this."""

    uid_map: Rows = ((0, os.getuid(), 1),)
    gid_map: Rows = ((0, 4_000_000_000, 1),)
    cgroups: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def opened_parent(self) -> Iterator["FakeProcess"]:
        yield FakeProcess(cgroups=self.cgroups)


def find(
    monkeypatch: pytest.MonkeyPatch,
    mount: Mount,
    own: str,
    **changes: Any,
) -> dict[str, list[str]]:
    controllers = "" if mount.fs_type == "cgroup2" else "cpu"
    if "name=systemd" in mount.fs_options:
        controllers = "name=systemd"

    def opened(path: str, **options: Any) -> IO[str]:
        assert path == "/sys/kernel/cgroup/delegate"
        return io.StringIO("".join(f"{each}\n" for each in DELEGATED))

    monkeypatch.setattr("builtins.open", opened)
    init = FakeProcess(cgroups={controllers: own}, **changes)
    top = Path(mount.point)
    return {
        str(Path(group.path).relative_to(top)): names
        for group, names in control.writable(cast(Process, init), [mount])
    }


def make(tmp_path: Path) -> Path:
    """A hierarchy in which all belongs to who runs this."""
    own = tmp_path / "machine/own"
    (own / "below").mkdir(parents=True, mode=0o755)
    for directory in (own, own.parent, tmp_path):
        directory.chmod(0o755)
        for name in ("cgroup.procs", "memory.max", "release_agent"):
            (directory / name).touch(0o644)
        (directory / "memory.stat").touch(0o444)
        (directory / "memory.reclaim").touch(0o200)
    return tmp_path


def test_version_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mount = hierarchy(make(tmp_path), "cgroup2", "rw")
    all_files = [
        ".", "cgroup.procs", "memory.max", "memory.reclaim", "release_agent"
    ]  # fmt: skip
    assert find(monkeypatch, mount, "/machine/own") == {
        # Delegated are some of the files of its own group.
        "machine/own": ["memory.max", "memory.reclaim", "release_agent"],
        # Of those above there is nothing that it may have.
        "machine": all_files,
        ".": all_files,
    }
    # It belongs to somebody else.
    others = ((0, 1_000_000, 65536),)
    for place in (tmp_path, *tmp_path.rglob("*")):
        assert not place.stat().st_mode & 0o022
    assert find(monkeypatch, mount, "/machine/own", uid_map=others) == {}
    # By its group, or as everybody.
    (tmp_path / "machine/own/memory.max").chmod(0o664)
    group = ((0, os.getgid(), 1),)
    assert find(
        monkeypatch, mount, "/machine/own", uid_map=others, gid_map=group
    ) == {"machine/own": ["memory.max"]}
    (tmp_path / "memory.max").chmod(0o646)
    assert find(monkeypatch, mount, "/machine/own", uid_map=others) == {
        ".": ["memory.max"]
    }


def test_version_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mount = hierarchy(make(tmp_path), "cgroup", "rw,cpu")
    found = find(monkeypatch, mount, "/machine/own")
    assert found.keys() == {".", "machine", "machine/own"}
    # Nothing is delegated.
    assert "cgroup.procs" in found["machine/own"]
    # Without controllers nothing is limited there.
    named = hierarchy(tmp_path, "cgroup", "rw,name=systemd")
    assert find(monkeypatch, named, "/machine") == {
        ".": ["release_agent"],
        "machine": ["release_agent"],
    }


def test_groups_that_have_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mount = hierarchy(tmp_path, "cgroup2", "rw")
    found = find(monkeypatch, mount, "/no/such")
    assert found.keys() <= {"."}


def test_more_groups_than_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scandir = os.scandir

    @contextmanager
    def many(place: int | str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(place) as entries:
            yield (each for each in entries for _ in range(500))

    monkeypatch.setattr(os, "scandir", many)
    mount = hierarchy(make(tmp_path), "cgroup2", "rw")
    # Those of its neighbours are none of its doing.
    for number in range(20):
        (tmp_path / f"machine/other{number}").mkdir()
    own = tmp_path / "machine/own"
    assert len(find(monkeypatch, mount, "/machine/own")) == 3
    for number in range(20):
        (own / f"below{number}").mkdir()
    with pytest.raises(
        BoundExceededError,
        match=f"^has more than 10000 names in its control group {own}$",
    ):
        find(monkeypatch, mount, "/machine/own")
