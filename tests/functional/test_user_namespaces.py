# SPDX-License-Identifier: Apache-2.0
"""User namespaces that no one runs in, on the real kernel."""

import errno
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lxc_userns.linux import user_namespaces
from lxc_userns.linux.processes import children
from tests.functional.descriptors import own_descriptors

pytestmark = pytest.mark.needs("user-namespaces")
BASE = 1_900_000_000
UID, GID = (0, BASE, 65536), (0, BASE + 1, 1000)


def maps_of(namespace: int) -> list[str]:
    """Return the ID maps that a process in it sees."""
    done = subprocess.run(
        [
            *("nsenter", f"--user=/proc/self/fd/{namespace}"),
            *("cat", "/proc/self/uid_map", "/proc/self/gid_map"),
        ],
        pass_fds=(namespace,),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def state() -> tuple[Counter[str], list[int]]:
    """Descriptors and children of this process."""
    return own_descriptors(), sorted(children(os.getpid()))


def test_it_has_the_maps() -> None:
    second = (1000, 5, 1)
    before = [*children(os.getpid())]
    with user_namespaces.create([UID], [GID, second]) as namespace:
        assert not os.get_inheritable(namespace)
        assert maps_of(namespace) == [
            f"0 {BASE} 65536",
            f"0 {BASE + 1} 1000",
            "1000 5 1",
        ]
        assert [*children(os.getpid())] == before


def test_nothing_is_left_after_many() -> None:
    before = state()
    for _ in range(200):
        with user_namespaces.create([UID], [GID]):
            pass
    assert state() == before


@pytest.mark.parametrize(
    ("uid", "gid", "name", "number"),
    [
        ([UID, (0, 5, 1)], [GID], "uid_map", errno.EINVAL),
        ([UID, (70000, BASE, 1)], [GID], "uid_map", errno.EINVAL),
        ([UID], [(0, 0, 0)], "gid_map", errno.EINVAL),
        ([(0, 2**32 - 1, 1)], [GID], "uid_map", errno.EINVAL),
        ([], [GID], "uid_map", errno.EINVAL),
        ([UID], [(n, n, 1) for n in range(341)], "gid_map", errno.EINVAL),
    ],
)
def test_bad_maps(
    uid: list[user_namespaces.Row],
    gid: list[user_namespaces.Row],
    name: str,
    number: int,
) -> None:
    before = state()
    for _ in range(3):
        with (
            pytest.raises(OSError, match=f"{name}: Invalid") as caught,
            user_namespaces.create(uid, gid),
        ):
            pass
        assert caught.value.errno == number
    assert state() == before


def test_an_error_in_the_body() -> None:
    before = state()
    with pytest.raises(KeyError), user_namespaces.create([UID], [GID]):
        raise KeyError
    assert state() == before


def test_by_several_threads() -> None:
    before = state()
    barrier = threading.Barrier(4)

    def make(number: int) -> list[str]:
        barrier.wait()
        found = []
        for each in range(10):
            row = (0, BASE + number * 100_000 + each, 10)
            with user_namespaces.create([row], [row]) as namespace:
                found.append(maps_of(namespace)[0])
        return found

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(make, range(4)))
    for number, found in enumerate(results):
        assert found == [
            f"0 {BASE + number * 100_000 + each} 10" for each in range(10)
        ]
    assert state() == before


PROGRAM = """
from lxc_userns.linux import user_namespaces
try:
    with user_namespaces.create([(0, 0, 1)], [(0, 0, 1)]):
        print("made")
except OSError as err:
    print(err)
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        # The limit is that of the user namespace where it is written.
        (
            "echo 0 > /proc/sys/user/max_user_namespaces;",
            "the kernel makes none: unshare: .*: No space left on device; "
            "see sysctl user.max_user_namespaces",
        ),
        ("", "made"),
    ],
)
def test_a_kernel_that_makes_none(before: str, said: str) -> None:
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "sh", "-c"),
            *(f'{before} exec "$@"', "sh", sys.executable, "-c", PROGRAM),
        ],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert re.fullmatch(said, done.stdout.strip()), done


def test_without_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = partial(subprocess.Popen, env={"PATH": str(tmp_path)})

    def start(argv: list[str], *, env: object, **options: Any) -> Any:
        return nothing(argv, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    before = state()
    with (
        pytest.raises(OSError, match="unshare: No such file"),
        user_namespaces.create([UID], [GID]),
    ):
        pass
    assert state() == before


def test_the_callers_environment_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat").write_text("#!/bin/sh\necho wrong\n")
    (tmp_path / "cat").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with user_namespaces.create([UID], [GID]):
        pass
