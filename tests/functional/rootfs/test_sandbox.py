# SPDX-License-Identifier: Apache-2.0
"""The sandbox of tar: what it can do there, and how all of it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lxc_userns.exceptions import RootfsError
from lxc_userns.linux.process import Process
from tests.functional.rootfs.archives import BASE, both, holder_of, unpack
from tests.functional.rootfs.sandbox import (
    LONGEST,
    Unpacking,
    family,
    gone,
    paused,
    status,
)
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.needs("mounts"),
    pytest.mark.usefixtures("no_holder_left"),
]


@both
def test_what_runs_can_do_nothing_else(
    tmp_path: Path,
    large: Path,
    monkeypatch: pytest.MonkeyPatch,
    shifted: bool,
) -> None:
    with paused():
        work = Unpacking(large, tmp_path / "out", shifted)
        work.start()
        found = wait_for(lambda: family(os.getpid()))
        is_gone = gone(found)
        try:
            tree = (holder_of(tmp_path / "out") / "tree").stat()
            look_at_sandbox(found, BASE if shifted else 2**31, tree)
        finally:
            os.kill(found["tar"], signal.SIGKILL)
            work.join(LONGEST)
    assert "tar was killed by signal 9" in str(work.error)
    assert wait_for(is_gone)
    assert not (tmp_path / "out").exists()


def look_at_sandbox(
    found: dict[str, int], base: int, tree: os.stat_result
) -> None:
    for name in ("first", "tar", "zstd"):
        pid = found[name]
        seen = status(pid)
        assert seen["Uid"] == seen["Gid"] == [str(base)] * 4
        assert seen["Groups"] == []
        assert seen["NoNewPrivs"] == ["1"]
        assert len(seen["NSpid"]) == 2
        with Process(pid) as process, Process("self") as own:
            assert process.uid_map[0][:2] == (0, base)
            assert process.user_namespace != own.user_namespace
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        for line in mounts:
            options = line.split()[5].split(",")
            assert {"ro", "nosuid", "nodev"} <= set(options)
            assert "shared:" not in line.partition(" - ")[0]
    assert status(found["first"])["NSpid"][1] == "1"
    # tar's working directory is the new tree, and on none of these.
    there = os.stat(f"/proc/{found['tar']}/cwd")
    assert os.path.samestat(there, tree)
    assert os.readlink(f"/proc/{found['tar']}/cwd") == "/"
    elsewhere = os.stat(f"/proc/{found['zstd']}/cwd")
    assert os.path.samestat(elsewhere, os.stat("/"))
    for name in ("tar", "zstd"):
        # There is one more while its libraries are loaded.
        wait_for(partial(has_no_other_descriptors, found[name]))
        environment = Path(f"/proc/{found[name]}/environ").read_text()
        names = {each.split("=")[0] for each in environment.split("\0")}
        assert names - {""} == {"PATH", "LC_ALL"}


def has_no_other_descriptors(pid: int) -> bool:
    found = Path(f"/proc/{pid}/fd").iterdir()
    return {each.name for each in found} == {"0", "1", "2"}


@pytest.mark.parametrize("victim", ["supervisor", "first", "zstd"])
def test_one_of_them_is_killed(
    tmp_path: Path,
    large: Path,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
) -> None:
    with paused():
        work = Unpacking(large, tmp_path / "out", True)
        work.start()
        found = wait_for(lambda: family(os.getpid()))
        is_gone = gone(found)
        os.kill(found[victim], signal.SIGKILL)
        if victim == "zstd":
            # tar would only notice once it is not paused any more.
            os.kill(found["tar"], signal.SIGKILL)
        work.join(LONGEST)
        assert not work.is_alive()
    assert isinstance(work.error, RootfsError)
    assert wait_for(is_gone)
    assert not (tmp_path / "out").exists()
    assert unpack(large, tmp_path / "out").inodes == 6


def test_the_caller_gives_up(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Callable[[], bool]] = []

    def interrupt(_: int) -> None:
        if all_of_them := family(os.getpid()):
            found.append(gone(all_of_them))
            raise KeyboardInterrupt

    with paused(), pytest.raises(KeyboardInterrupt):
        unpack(large, tmp_path / "out", progress=interrupt)
    assert wait_for(found[0])
    assert not (tmp_path / "out").exists()


CALLER = """
import sys
from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.rootfs.archive import tar
tar._OPTIONS += "--checkpoint=1", "--checkpoint-action=sleep=1000"
ids = IdMap.parse("0:100000:65536")
rootfs.unpack(sys.argv[1], sys.argv[2], IdMaps(ids, ids))
"""


def test_the_caller_is_killed(tmp_path: Path, large: Path) -> None:
    out = tmp_path / "out"
    argv = [sys.executable, "-c", CALLER, str(large), str(out)]
    with subprocess.Popen(argv) as caller:
        found = wait_for(lambda: family(caller.pid))
        is_gone = gone(found)
        caller.send_signal(signal.SIGKILL)
    # Whoever comes next waits until all of them are gone.
    assert unpack(large, out).inodes == 6
    assert is_gone()
