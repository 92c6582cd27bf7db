# SPDX-License-Identifier: Apache-2.0
"""Kill -9 at any moment, run again: the same as undisturbed."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.linux import directory, namespaces
from lxc_userns.rootfs.shifting import journal
from tests.functional.conftest import remove_tree
from tests.functional.rootfs import golden
from tests.functional.rootfs.kill import run_and_kill

A = "0:100000:65536"
B = "0:300000:5001"
OVERLAP = "0:1000:65536"
MUTATORS = "/^(l|f)?chown|^fchownat|chmod|xattr|ioctl"


def nobody(number: int) -> int:
    return 165534 if number == golden.UNMAPPED else golden.ids(A)(number)


def back_from_overlap(number: int) -> int:
    return number - 1000 if 1000 <= number < 66536 else number


Action = Callable[[Path], object]


def unshift_again(path: Path) -> object:
    # The very last change takes the state away, and all is done then.
    try:
        return rootfs.unshift(path, workers=1)
    except RootfsError as err:
        assert "not shifted" in err.reason  # noqa: PT017
        return None


def shift(text: str, unmapped: str = "keep") -> Action:
    return lambda path: rootfs.shift(
        path, golden.maps(text), unmapped=unmapped, workers=1
    )


CASES: dict[str, tuple[str | None, Action, golden.Ids]] = {
    "shift": (None, shift(A), golden.ids(A)),
    "overlap": (None, shift(OVERLAP), golden.ids(OVERLAP)),
    "nobody": (None, shift(A, "nobody"), nobody),
    "error": (
        None,
        shift("0:100000:70001", "error"),
        golden.ids("0:100000:70001"),
    ),
    "reshift": (A, shift(B), golden.ids(B)),
    "unshift": (A, unshift_again, int),
}


def is_settled(seen: golden.Snapshot) -> bool:
    return {name for _, name in golden.notes(seen)} <= {golden.OURS + "state"}


def make_tree(parent: Path, number: int, before: str | None) -> Path:
    path = parent / str(number)
    path.mkdir()
    golden.build(path, small=True)
    if before is not None:
        rootfs.shift(path, golden.maps(before), workers=1)
    return path


@pytest.mark.parametrize("case", CASES)
def test_killed_before_every_change(root: Path, case: str) -> None:
    before, action, owner = CASES[case]
    for at in count(1):
        path = make_tree(root, at, None)
        guest = golden.snapshot(path)
        if before is not None:
            rootfs.shift(path, golden.maps(before), workers=1)
        died = run_and_kill(partial(action, path), at)
        if died:
            action(path)
        after = golden.snapshot(path)
        assert is_settled(after), f"killed at {at}"
        wanted = golden.expected(guest, owner, owner)
        if case == "nobody":
            # The policy is for owners, not for whom an ACL names.
            wanted = {
                name: replace(each, xattrs=after[name].xattrs)
                for name, each in wanted.items()
            }
        assert golden.without_notes(after) == golden.without_notes(wanted), (
            f"killed at {at}"
        )
        remove_tree(path)
        if not died:
            break
    # Every inode of the tree has at least one change.
    assert at > len({each.number for each in guest.values()})


def test_killed_again_and_again(root: Path) -> None:
    """Each run dies a little later than the one that it resumes."""
    path = make_tree(root, 0, None)
    guest = golden.snapshot(path)
    for at in count(3):
        if not run_and_kill(lambda: shift(OVERLAP)(path), at):
            break
    after = golden.snapshot(path)
    assert is_settled(after)
    owner = golden.ids(OVERLAP)
    assert golden.without_notes(after) == golden.expected(guest, owner, owner)


def test_killed_then_other_maps(root: Path) -> None:
    for number, at in enumerate(range(5, 100, 19)):
        path = make_tree(root, number, None)
        guest = golden.snapshot(path)
        assert run_and_kill(partial(shift(OVERLAP), path), at)
        assert not rootfs.verify(path, golden.maps(OVERLAP)).ok
        rootfs.shift(path, golden.maps(A))
        after = golden.snapshot(path)
        assert is_settled(after)

        def owner(number: int) -> int:
            return golden.ids(A)(
                back_from_overlap(golden.ids(OVERLAP)(number))
            )

        assert golden.without_notes(after) == golden.expected(
            guest, owner, owner
        )


def test_every_change_is_audited(root: Path) -> None:
    """The changes that run_and_kill() counts are those of the kernel."""
    path = make_tree(root, 0, None)
    log = root / "strace.log"
    code = (
        "import sys; from lxc_userns import IdMap, IdMaps, rootfs;"
        "from tests.functional.rootfs.kill import CHANGES;"
        "m = IdMap.parse('0:1000:65536'); seen = [];"
        "sys.addaudithook(lambda e, a: e in CHANGES and seen.append(e));"
        "rootfs.shift(sys.argv[1], IdMaps(m, m), workers=1);"
        "print(len(seen))"
    )
    argv = ["strace", "-f", "--seccomp-bpf", "-o", str(log)]
    argv += ["-e", f"trace={MUTATORS}"]
    argv += [sys.executable, "-c", code, str(path)]
    printed = subprocess.check_output(argv, timeout=60, text=True)
    calls = re.findall(
        r"^\d+ +(?:[lf]?chown|fchownat|f?chmod(?:at)?|[lf]?(?:set|remove)xattr"
        r"|ioctl)\((?!.*(?:TCGETS|FIOCLEX|TIOCGWINSZ))",
        log.read_text(),
        re.MULTILINE,
    )
    assert len(calls) == int(printed)


BIG = """
import sys
from lxc_userns import IdMap, IdMaps, rootfs
m = IdMap.parse(sys.argv[2])
print("go", flush=True)
rootfs.shift(sys.argv[1], IdMaps(m, m), workers=2)
"""


def test_all_processes_killed_at_random(root: Path) -> None:
    """And run again at once, as a supervisor would."""
    for number in range(40):
        directory = root / f"d{number}"
        directory.mkdir()
        for each in range(100):
            path = directory / str(each)
            path.touch()
            if each % 5 == 0:
                path.chmod(0o6755)
                os.setxattr(path, golden.CAPABILITY, golden.CAPS)
    golden.build(root, small=True)
    guest = golden.snapshot(root)
    dice = random.Random(7)  # noqa: S311
    killed = 0
    for turn in range(12):
        text = (A, OVERLAP, B)[turn % 3]
        killed += kill_all(root, text, dice.random() * 0.5)
    assert killed > 3
    rootfs.shift(root, golden.maps("0:500000:65536"), workers=2)
    rootfs.unshift(root, workers=2)
    after = golden.snapshot(root)
    assert golden.notes(after) == []
    for name, now in after.items():
        was = guest[name]
        # 70000 went through a map that counts it as 69000.
        if golden.UNMAPPED not in (was.uid, was.gid):
            assert (now.uid, now.gid) == (was.uid, was.gid)
        assert (now.mode, now.flags, now.content) == (
            was.mode,
            was.flags,
            was.content,
        )
        assert now.xattrs.get(golden.CAPABILITY) == was.xattrs.get(
            golden.CAPABILITY
        )


def kill_all(root: Path, text: str, after: float) -> bool:
    argv = [sys.executable, "-c", BIG, str(root), text]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()]
        done = process.poll() is not None
        process.kill()
        for pid in workers:
            # In the moment between, it may have ended by itself.
            if Path(f"/proc/{pid}").exists():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    return not done


def check_stopped_and_resumed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that a shift fails in the middle, and goes on without its fault.

    :param monkeypatch: has put the fault in.
    """
    with pytest.raises(RootfsError, match="run the same again to resume"):
        rootfs.shift(root, golden.maps(A), workers=2)
    monkeypatch.undo()
    assert not rootfs.verify(root, golden.maps(A)).ok
    rootfs.shift(root, golden.maps(A), workers=2)
    assert rootfs.verify(root, golden.maps(A)).ok


@pytest.mark.parametrize("at", [1, 50])
def test_worker_is_killed_before_a_change(
    root: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The process that has started it is told, and goes no further.

    All workers are processes here, of which each is killed: a thread beside
    one that starts slowly would have done everything before.
    """
    for number in range(30):
        directory = root / f"d{number}"
        directory.mkdir()
        for each in range(80):
            (directory / str(each)).touch(0o6755)
    golden.build(root, small=True)
    before = golden.snapshot(root)
    chown = "?chown,fchownat"
    traced = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={chown}"]
    traced += ["-e", f"inject={chown}:signal=KILL:when={at}"]
    started = subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda argv, **options: started([*traced, *argv], **options),
    )
    monkeypatch.setattr(namespaces, "has_native_threads", lambda: False)
    check_stopped_and_resumed(root, monkeypatch)
    rootfs.unshift(root, workers=2)
    assert golden.snapshot(root) == before


@pytest.mark.parametrize("any_root", ["btrfs"], indirect=True)
def test_same_inode_number_in_two_subvolumes(any_root: Path) -> None:
    """A note about one must not be taken for one about the other."""
    for name in ("one", "two"):
        path = any_root / name
        subprocess.run(
            ["btrfs", "-q", "subvolume", "create", path], check=True
        )
        (path / "file").write_text(name)
        golden.set_flags(path / "file", golden.IMMUTABLE)
    stats = [os.stat(any_root / name / "file") for name in ("one", "two")]
    assert stats[0].st_ino == stats[1].st_ino
    for at in count(1):
        died = run_and_kill(lambda: shift(A)(any_root), at)
        for action in (shift(A), lambda p: rootfs.unshift(p, workers=1)):
            action(any_root)
            for name in ("one", "two"):
                with golden.opened(any_root / name / "file") as fd:
                    flags = golden.get_flags(fd)
                assert flags & golden.IMMUTABLE, f"{name}, killed at {at}"
        assert golden.notes(golden.snapshot(any_root)) == []
        if not died:
            break


def test_worker_process_dies(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = [sys.executable, "-c", "raise SystemExit(7)"]
    started = partial(subprocess.Popen, dies)
    monkeypatch.setattr(
        subprocess, "Popen", lambda _argv, **options: started(**options)
    )
    for number in range(1500):
        (root / str(number)).touch()
    # Large enough that it dies before the other worker is through.
    for number in range(200):
        (root / f"d{number}").mkdir()
        for name in range(100):
            (root / f"d{number}" / str(name)).touch()
    check_stopped_and_resumed(root, monkeypatch)
    with directory.opened(root) as fd:
        assert journal.read_notes(fd) == {}
