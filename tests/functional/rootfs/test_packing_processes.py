# SPDX-License-Identifier: Apache-2.0
"""Processes that pack a tree: confined, killed, in the midst of changes."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from tests.functional.rootfs.archives import id_maps
from tests.functional.rootfs.sandbox import (
    descendants,
    paused,
    status,
    tar_with,
)
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("mounts")


class Packing(threading.Thread):
    """Packs in a thread; what comes of it is kept."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.call = arguments, options
        self.error: BaseException | None = None
        self.report: rootfs.PackReport | None = None

    def run(self) -> None:
        arguments, options = self.call
        try:
            self.report = rootfs.pack(*arguments, **options)
        except BaseException as err:
            self.error = err


@pytest.fixture
def tar_pauses() -> Iterator[None]:
    """Let tar wait at the first record, long enough to be looked at."""
    with paused():
        yield


def find_tar() -> dict[str, int]:
    found = dict(descendants(os.getpid()))
    return found if "tar" in found else {}


def large(root: Path, size: int = 1 << 20) -> Path:
    root.chmod(0o700)
    tree = root / "tree"
    tree.mkdir(mode=0o755)
    for number in range(3):
        (tree / f"{number}").write_bytes(os.urandom(size))
    return tree


def opened_on(proc: Path, device: int) -> set[str]:
    """Return what a process has open beside its streams.

    :returns: paths as they are to the process; none if any of it is on
        another device.
    """
    found = {each for each in (proc / "fd").iterdir() if each.name > "2"}
    try:
        if {each.stat().st_dev for each in found} <= {device}:
            return {str(each.readlink()) for each in found}
    except FileNotFoundError:
        pass  # It has been closed.
    return set()


@pytest.mark.usefixtures("tar_pauses")
@pytest.mark.parametrize("shifted", [True, False])
def test_what_runs_reaches_nothing_else(root: Path, shifted: bool) -> None:
    tree = large(root)
    if shifted:
        rootfs.shift(tree, id_maps())
    work = Packing(tree, root / "a.tar.zst")
    work.start()
    found = wait_for(find_tar)
    try:
        seen = status(found["tar"])
        base = 100000 if shifted else 2**31
        assert seen["Uid"] == seen["Gid"] == [str(base)] * 4
        assert seen["NoNewPrivs"] == ["1"]
        assert len(seen["NSpid"]) == 2
        proc = Path("/proc", str(found["tar"]))
        for kind in ("user", "mnt", "net", "ipc", "pid"):
            ours = os.readlink(f"/proc/self/ns/{kind}")
            assert os.readlink(proc / "ns" / kind) != ours
        # Programs, and not one file of the host else.
        names = {each.name for each in (proc / "root").iterdir()}
        allowed = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}
        assert "usr" in names <= allowed
        for line in (proc / "mountinfo").read_text().splitlines():
            assert {"ro", "nosuid", "nodev"} <= {*line.split()[5].split(",")}
        assert os.path.samestat(os.stat(proc / "cwd"), tree.stat())
        assert os.statvfs(proc / "cwd").f_flag & os.ST_RDONLY
        # What it has opened itself is of the tree, until it waits; before,
        # libraries are opened, and closed.
        opened = wait_for(
            lambda: opened_on(proc, tree.stat().st_dev), seconds=60
        )
        assert opened <= {"/", "/0"}
    finally:
        os.kill(found["tar"], signal.SIGKILL)
        work.join(60)
    assert "tar was killed by signal 9" in str(work.error)
    assert [each.name for each in root.iterdir()] == ["tree"]


@pytest.mark.usefixtures("tar_pauses")
@pytest.mark.parametrize("name", ["zstd", "python"])
def test_another_is_killed(root: Path, name: str) -> None:
    # Other tests have processes as well.
    before = {pid for _, pid in descendants(os.getpid())}

    def find_victims() -> list[int]:
        """Find those of a name, once tar is there too."""
        found = [*descendants(os.getpid())]
        if "tar" not in dict(found):
            return []
        return [
            pid for each, pid in found if name in each and pid not in before
        ]

    work = Packing(large(root), root / "a.tar.zst")
    work.start()
    victims = wait_for(find_victims)
    found = find_tar()
    os.kill(victims[0], signal.SIGKILL)
    if name == "zstd":
        os.kill(found["tar"], signal.SIGKILL)
    work.join(60)
    assert isinstance(work.error, RootfsError)
    assert [each.name for each in root.iterdir()] == ["tree"]


@pytest.fixture
def tar_is_slow() -> Iterator[None]:
    """Let tar wait a second at each record."""
    with tar_with("--checkpoint=1", "--checkpoint-action=sleep=1"):
        yield


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.usefixtures("tar_is_slow")
def test_a_file_that_changes(root: Path, live: bool) -> None:
    # Each has a checkpoint within, after 64 KiB.
    tree = large(root, 3 << 16)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with (tree / "1").open("ab") as stream:
                stream.write(b"more")
            time.sleep(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        if live:
            report = rootfs.pack(tree, root / "a.tar", live=True)
            assert report.changed == 1
        else:
            reason = "1: file changed as we read it; stop"
            with pytest.raises(RootfsError, match=reason):
                rootfs.pack(tree, root / "a.tar")
    finally:
        stop.set()
        writer.join()
    assert (root / "a.tar").exists() == live


def test_the_caller_gives_up(root: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    call: Callable[..., Any] = rootfs.pack
    with pytest.raises(KeyboardInterrupt):
        call(large(root), root / "a.tar", progress=interrupt)
    assert [each.name for each in root.iterdir()] == ["tree"]
